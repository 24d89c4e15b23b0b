"""All targets by name. A target is made in the process that runs it."""

from collections.abc import Callable

from tests.fuzz.target import Target
from tests.fuzz.targets import bundles, dashboard, footage, kafka, redis, settings

TARGETS: dict[str, Callable[[], Target]] = {
    "images": kafka.images,
    "messages": kafka.messages,
    "record-batches": kafka.record_batches,
    "compressed-batches": kafka.compressed_batches,
    "settings": settings.settings_files,
    "addresses": settings.addresses,
    **bundles.BUNDLE_FILES,
    "signatures": bundles.signatures,
    "engine-records": bundles.engine_records,
    "profiles": bundles.profiles,
    "stored-profiles": redis.stored_profiles,
    "progress": redis.progress,
    "learners": redis.learners,
    "memories": redis.memories,
    "references": redis.references,
    "streams": redis.streams,
    "users": dashboard.users_files,
    "evidence": dashboard.evidence,
    "ranges": dashboard.ranges,
    "sessions": dashboard.sessions,
    "marks": dashboard.marks,
    "labels": footage.label_files,
    "label-arrays": footage.label_arrays,
    "label-scripts": footage.label_scripts,
    "mask-arrays": footage.mask_arrays,
    "dataset-images": footage.dataset_images,
    "annotations": footage.annotations,
    "videos": footage.videos,
    "run-files": footage.run_files,
    "image-tables": footage.image_tables,
}

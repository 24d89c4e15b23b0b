"""TensorRT, and TensorRT for RTX, on an NVIDIA GPU: run a plan that was built for it."""

from collections.abc import Mapping
from typing import Any

from deploy.bundle import Bundle
from deploy.engine import EngineRequest, check_graph
from deploy.engines.tensorrt_library import Context, Log, TensorRt, import_library, plan_fingerprint
from deploy.errors import EngineFailed, backend_errors
from deploy.gpu.driver import CudaDriver, Launch, find_gpu
from deploy.gpu.engine import INPUTS, OUTPUTS, GpuEngine, buckets_for
from deploy.records import BuildOptions, read_plan


class TensorRtEngine(GpuEngine):
    """The engines ``tensorrt`` and ``tensorrt-rtx``.

    Raises:
        EngineUnavailable: the library, driver or GPU is missing.
        EngineRefused, PlanStale, BundleCorrupt: see :func:`deploy.records.read_plan`.
        EngineFailed: the library refuses the plan.
    """

    def __init__(self, bundle: Bundle, request: EngineRequest) -> None:
        self.name = name = request.engine
        library = import_library(name)
        find_gpu(name)  # first of all: without a driver TensorRT's runtime ends the process
        variant, plan = read_plan(bundle, name, request.precision, plan_fingerprint(name, library))
        self._description = dict(variant.fingerprint)
        built = variant.plan.options if variant.plan else BuildOptions()
        with backend_errors(f"{name}: the plan of {bundle.path} cannot be loaded"):
            driver = CudaDriver(name)
            program = PlanProgram(library, plan, built, driver)
        check_graph(bundle, *program.free_shapes())
        with backend_errors(f"{name}: the plan of {bundle.path} cannot be loaded"):
            buckets = buckets_for(request.max_clips, built.buckets)
            super().__init__(bundle.spec, request, driver, program, buckets, bundle.default_profile)


class PlanProgram:
    """:class:`deploy.gpu.engine.Program` of a plan. Every launcher has a context of its own."""

    def __init__(self, library: TensorRt, plan: bytes, options: BuildOptions, driver: CudaDriver) -> None:
        self._library, self._options, self._driver = library, options, driver
        # Each of these needs those before it, so they are freed in reverse order.
        self._log = Log(library)
        self._runtime = library.Runtime(self._log.logger)
        self._engine = self._log.require(self._runtime.deserialize_cuda_engine(plan), "the plan is refused")

    def free_shapes(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Shapes of inputs and of outputs by name, with the dynamic number of clips first."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        shapes = {name: list(self._engine.get_tensor_shape(name)) for name in names}
        return (
            {name: shape for name, shape in shapes.items() if name in INPUTS},
            {name: shape for name, shape in shapes.items() if name in OUTPUTS},
        )

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        inputs, outputs = self.free_shapes()
        return {name: tuple(shape[1:]) for name, shape in {**inputs, **outputs}.items()}

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        context = self._context(bucket, tensors)

        def launch() -> None:
            self._log.require(context.execute_async_v3(self._driver.stream_handle()), f"{bucket} clips cannot be enqueued")

        return launch

    def _context(self, bucket: int, tensors: Mapping[str, Any]) -> Context:
        log, strategy = self._log, self._library.ExecutionContextAllocationStrategy.STATIC
        context = log.require(self._engine.create_execution_context(strategy), f"no context for {bucket} clips")
        bounds = enumerate(self._options.profile_bounds())
        profile = next((index for index, (least, _, largest) in bounds if least <= bucket <= largest), None)
        if profile is None:
            raise EngineFailed(f"no profile of the plan takes {bucket} clips")
        log.require(
            context.set_optimization_profile_async(profile, self._driver.stream_handle()), f"profile {profile} is refused"
        )
        for name, tensor in tensors.items():
            if name in INPUTS:
                shape = (bucket, *tuple(tensor.shape)[1:])
                log.require(context.set_input_shape(name, shape), f"{name} of {shape} is refused")
            log.require(context.set_tensor_address(name, tensor.data_ptr()), f"the memory of {name} is refused")
        unknown = list(context.infer_shapes())
        log.require(not unknown, f"shapes are missing for {', '.join(unknown)}")
        return context

# The streamer: no torch, no trainer's libraries, not root. Build it from the repository's root:
#   docker build -f docker/streamer.Dockerfile -t oddsight-streamer .

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY requirements requirements
COPY deploy deploy
COPY oddsight oddsight
COPY streamer streamer
COPY trainer trainer
# Every file that is downloaded must have the sha256 that is written in requirements/.
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
 && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
 && python -m venv /opt/oddsight \
 && /opt/oddsight/bin/pip install --no-cache-dir --require-hashes --requirement requirements/stream.txt \
      --requirement requirements/dashboard.txt --requirement requirements/notify.txt \
      --requirement requirements/s3.txt \
 && /opt/oddsight/bin/pip install --no-deps /tmp/wheel/*.whl

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/oddsight /opt/oddsight
RUN useradd --system --uid 10001 --create-home oddsight
USER oddsight
# Volumes that are mounted here belong to the user, too.
RUN mkdir /home/oddsight/users /home/oddsight/evidence
WORKDIR /home/oddsight
EXPOSE 9108
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["/opt/oddsight/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9108/livez', timeout=2)"]
ENTRYPOINT ["/opt/oddsight/bin/oddsight-stream"]
CMD ["--help"]

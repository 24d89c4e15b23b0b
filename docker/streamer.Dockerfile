# The streamer: no torch, no trainer's libraries, not root. Build it from the repository's root:
#   docker build -f docker/streamer.Dockerfile -t oddsight-streamer .

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY deploy deploy
COPY oddsight oddsight
COPY streamer streamer
COPY trainer trainer
RUN python -m venv /opt/oddsight \
 && /opt/oddsight/bin/pip install --no-cache-dir --constraint constraints.txt '.[stream]'

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/oddsight /opt/oddsight
RUN useradd --system --uid 10001 --create-home oddsight
USER oddsight
WORKDIR /home/oddsight
EXPOSE 9108
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["/opt/oddsight/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9108/livez', timeout=2)"]
ENTRYPOINT ["/opt/oddsight/bin/oddsight-stream"]
CMD ["--help"]

# Isobit with its environment: the targets onnx and c, and all that `make demo` needs.
#
#   docker build -t isobit .
#   docker run --rm isobit make demo
#   docker run --rm -v "$PWD:/data" -w /data isobit isobit model.pth --arch resnet18 --calib-data images/calib
#
# PIP_EXTRA_INDEX_URL may name an index with PyTorch for CPUs alone, which is a tenth of the size:
# docker build --build-arg PIP_EXTRA_INDEX_URL=... -t isobit .
#
# Never built by its authors, who had no Docker: tests/test_dockerfile.py checks what can be checked without.
FROM python:3.11-slim-bookworm

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 isobit && install --directory --owner=isobit --group=isobit /opt/isobit
USER isobit
WORKDIR /opt/isobit
COPY --chown=isobit:isobit . .

ARG PIP_EXTRA_INDEX_URL=""
RUN make .venv/ready && rm -rf ~/.cache

ENV PATH="/opt/isobit/.venv/bin:$PATH"
CMD ["isobit", "--help"]

# The pipelines' steps as an image: library, steps, pipelines and stacks baked in, all of it locked; no root, no pip.
# From the root of the checkout, with podman or docker:
#
#   podman build -t assay-steps --build-arg COMMIT=$(git rev-parse HEAD) .                     # with CUDA
#   podman build -t assay-steps-cpu --build-arg COMMIT=$(git rev-parse HEAD) \
#     --build-arg TORCH=cpu --build-arg TORCH_INDEX=… .                                         # without
#
# The CUDA libraries are those that torch brings as wheels: the base image needs none, the node a driver. Torch without
# CUDA is on an index of its own, which is given as TORCH_INDEX: it is of the locked version, but not covered by the
# lock's hashes. A build that needs a certificate or an index of its own gets them as mounts:
# `--volume /etc/pip.conf:/etc/pip.conf:ro`.
#
# Pipelines name the image by its digest: ASSAY_IMAGE=registry/name@sha256:… (docs/stacks.md).

# Python 3.11, 3.12 or 3.13 as `python3`, in both stages the same. A repeatable build gives it with its digest.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim


FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /venv
COPY stacks/requirements.txt /build/
ARG TORCH=cuda
ARG TORCH_INDEX=
# Wheels only, for a source distribution may ask for what no hash of ours covers. But kfp-server-api has nothing else: it
# is built by the locked setuptools.
RUN set -eu; cd /build; \
    case "${TORCH}" in cuda | cpu) ;; *) echo "TORCH is cuda or cpu, not ${TORCH}" >&2; exit 2 ;; esac; \
    if [ "${TORCH}" = cpu ]; then \
        test -n "${TORCH_INDEX}" || { echo "TORCH=cpu needs TORCH_INDEX, the index of torch without CUDA" >&2; exit 2; }; \
        grep -oE '^(torch|torchvision)==[^ ;]+' requirements.txt > torch.txt; \
        awk '/^[a-z]/ { cuda = /^(torch|torchvision|triton|nvidia-|cuda-)/ } !cuda' requirements.txt > locked.txt; \
        /venv/bin/pip install --no-deps --only-binary :all: --index-url "${TORCH_INDEX}" -r torch.txt; \
    else \
        cp requirements.txt locked.txt; \
    fi; \
    awk '/^[a-z]/ { source = /^kfp-server-api==/ } source' locked.txt > source.txt; \
    awk '/^[a-z]/ { source = /^kfp-server-api==/ } !source' locked.txt > wheels.txt; \
    /venv/bin/pip install --require-hashes --no-deps --only-binary :all: -r wheels.txt; \
    /venv/bin/pip install --require-hashes --no-deps --no-build-isolation --use-pep517 -r source.txt; \
    /venv/bin/pip uninstall --quiet --yes pip setuptools
# Bytecode that is never compared with its source: where nothing can be written, stale bytecode would be made anew at
# each start of each step. What is written for a later Python (torch has such tests) is left out.
RUN python3 -m compileall -q -j 0 -x '/py3[0-9]+_' --invalidation-mode unchecked-hash /venv/lib
COPY pyproject.toml /app/
COPY src/assay /app/src/assay
COPY pipelines /app/pipelines
COPY steps /app/steps
COPY stacks /app/stacks
RUN rm -r /app/stacks/cluster /app/stacks/compose.yaml /app/stacks/requirements.txt \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app \
    && chmod -R a+rX,go-w /app


FROM ${PYTHON_IMAGE} AS steps
COPY --from=builder /venv /venv
COPY --from=builder /app /app
# `data.source: data/…` of a config is below here: a volume is mounted at /app/data.
WORKDIR /app
# All that is written goes to /tmp, and all of it may be lost: what lasts is in the artifact store and in MLflow.
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app/src:/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ASSAY_HOME=/tmp/assay \
    ZENML_CONFIG_PATH=/tmp/assay/zenml \
    ZENML_CUSTOM_SOURCE_ROOT=/app
# What `assay.home` sets where a person works.
ENV BENTOML_DO_NOT_TRACK=True \
    DO_NOT_TRACK=1 \
    GX_ANALYTICS_ENABLED=false \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false \
    MLFLOW_LOGGING_LEVEL=WARNING \
    NO_ALBUMENTATIONS_UPDATE=1 \
    UV_NO_CACHE=1 \
    ZENML_ANALYTICS_OPT_IN=false \
    ZENML_AUTO_OPEN_DASHBOARD=false
# A number: Kubernetes cannot tell whether a name is root's.
USER 10001:10001
# What a step starts with must be there: its own command is `python -m zenml.entrypoints.entrypoint …`.
CMD ["python", "-m", "assay", "doctor"]
ARG TORCH=cuda
ARG COMMIT=unknown
# Buildah 1.28 takes a label from its cache though the argument in it has changed, but not what comes after such a RUN.
RUN test -n "${COMMIT}"
ENV ASSAY_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="assay-steps" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${COMMIT}" \
      assay.torch="${TORCH}"

# segkit as a batch job, for any user id, with a read-only root file system if need be (mount a tmpfs on /tmp).
#
#   docker build -t segkit .
#   docker build -t segkit:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" segkit predict slide.tif --model run
#   docker run --rm --gpus all -u "$(id -u):$(id -g)" -v "$PWD:/data" segkit:cuda train --data images

ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
# Where torch comes from: builds for the CPU, or with the CUDA libraries inside.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/segkit
COPY constraints.txt ./
RUN /opt/segkit/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" --constraint constraints.txt \
    torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY segkit ./segkit
RUN /opt/segkit/bin/pip install --no-cache-dir --constraint constraints.txt ".[openslide]"

FROM ${BASE}
COPY --from=build /opt/segkit /opt/segkit
# matplotlib and torch keep caches in the home folder, which an unknown user id does not have.
ENV PATH=/opt/segkit/bin:${PATH} \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["segkit"]
CMD ["--help"]

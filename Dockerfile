# segkit as a batch job: any user id, a read-only root file system, 64 MB of /dev/shm, no network.
#
#   docker build -t segkit .
#   docker build -t segkit:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" segkit predict slide.tif --model run
#   docker run --rm --gpus all -u "$(id -u):$(id -g)" -v "$PWD:/data" segkit:cuda train --data images
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --network none -v "$PWD:/data" segkit check images
#
# Sites with mirrors give BASE, PIP_INDEX_URL (and PIP_FIND_LINKS), TORCH_INDEX and NPM_CONFIG_REGISTRY.
# deploy/check_image.py builds it and tries all that is promised here.

# Of several architectures; the digest is what counts, the tag says what it is.
ARG BASE=docker.io/library/python:3.11.16-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84


# What segkit needs: a layer that changes only when a version does.
FROM ${BASE} AS packages
# Where torch and torchvision come from: built for CPUs, or with CUDA inside. Everything else is from PIP_INDEX_URL.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG PIP_FIND_LINKS
WORKDIR /src
# Without pip, which has nothing to do in a job.
RUN python -m venv --without-pip /opt/packages
COPY constraints.txt pyproject.toml ./
RUN python -m pip --python /opt/packages/bin/python install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" \
        --constraint constraints.txt torch torchvision
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['openslide'], sep='\n')" > requirements.txt \
    && python -m pip --python /opt/packages/bin/python install --no-cache-dir --constraint constraints.txt \
        --requirement requirements.txt


# segkit itself: a small layer.
FROM packages AS program
ARG SETUPTOOLS=80.9.0
# Where the viewer's OpenSeadragon comes from, which the build (setup.py) fetches and checks by its hash.
ARG NPM_CONFIG_REGISTRY=https://registry.npmjs.org
RUN python -m pip --python /opt/packages/bin/python install --no-cache-dir "setuptools==${SETUPTOOLS}"
COPY pyproject.toml README.md LICENSE setup.p[y] ./
COPY segkit ./segkit
RUN python -m pip --python /opt/packages/bin/python install --no-cache-dir --no-deps --no-build-isolation \
        --target /opt/segkit .


FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="segkit" \
      org.opencontainers.image.description="From a folder of labelled microscopy images to exact results on slides" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/packages /opt/packages
COPY --from=program /opt/segkit /opt/segkit
# HOME, USER: matplotlib and torch keep files below the home folder, under the user's name; an unknown user id has
# neither. PYTHONNOUSERSITE: Apptainer mounts the user's home, whose packages do not belong here.
ENV PATH=/opt/segkit/bin:/opt/packages/bin:${PATH} \
    PYTHONPATH=/opt/segkit \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    HOME=/tmp \
    USER=segkit \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /data
# segkit is process 1 and handles it: it saves, and exits with 143.
STOPSIGNAL SIGTERM
ENTRYPOINT ["segkit"]
CMD ["--help"]

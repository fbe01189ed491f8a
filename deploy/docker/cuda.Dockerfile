# The decoder for an NVIDIA GPU. From the top of the repository:
#   docker build -f deploy/docker/cuda.Dockerfile -t ndsc/decoder-cuda .
# The CUDA libraries come as Python packages, hashes checked; the driver comes from the host, through NVIDIA's container
# toolkit. So any base image with python3 (3.11, as the lock is) will do.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
WORKDIR /source
RUN python3 -m venv /opt/pip && /opt/pip/bin/pip install --no-cache-dir hatchling==1.33.0 \
    && python3 -m venv --without-pip /opt/ndsc
ENV INSTALL="/opt/pip/bin/pip --python /opt/ndsc/bin/python install --no-cache-dir --no-deps"
COPY deploy/docker/requirements-cuda.txt ./
RUN $INSTALL --require-hashes -r requirements-cuda.txt
COPY pyproject.toml LICENSE README.md ./
COPY models models
COPY encoder_service encoder_service
COPY decoder_service decoder_service
COPY ndsc ndsc
# Without its dependencies: they name the runtime for CPUs, and the two overwrite each other.
RUN /opt/pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . && $INSTALL wheels/*.whl

FROM ${PYTHON_IMAGE}
RUN mkdir -p /data /certificates && chown 65532:65532 /data /certificates
ENV PATH=/opt/ndsc/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility NDSC_DECODER_PROVIDER=cuda
COPY --from=packages /opt/ndsc /opt/ndsc
USER 65532:65532
WORKDIR /data
STOPSIGNAL SIGTERM
EXPOSE 50051
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s CMD ["ndsc", "health", "localhost:50051"]
ENTRYPOINT ["python", "-P", "-m", "decoder_service"]

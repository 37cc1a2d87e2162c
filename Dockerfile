# Builds three images: docker build --target server | edge | detector .
FROM python:3.11-slim AS base
ENV PATH=/opt/flockwatch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/flockwatch
WORKDIR /build

FROM build AS wheel
COPY deploy/build.lock ./
RUN pip install --require-hashes --requirement build.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY common common
COPY flockwatch flockwatch
COPY server server
# Built with the interpreter of the images, whose path the command contains. Libraries are installed separately.
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip install --no-deps --no-index --prefix /code dist/*.whl

FROM build AS server-libraries
COPY deploy/server.lock ./
# No image needs the tests of this library, which contain keys; nor, below, TensorFlow's headers.
RUN pip install --require-hashes --requirement server.lock && pip uninstall --yes pip setuptools \
    && rm -r /opt/flockwatch/lib/python*/site-packages/Crypto/SelfTest

FROM build AS edge-libraries
COPY deploy/edge.lock ./
RUN pip install --require-hashes --requirement edge.lock && pip uninstall --yes pip setuptools \
    && rm -r /opt/flockwatch/lib/python*/site-packages/Crypto/SelfTest \
    /opt/flockwatch/lib/python*/site-packages/tensorflow/include

FROM build AS detector-libraries
COPY deploy/detector.lock ./
RUN pip install --require-hashes --requirement detector.lock && pip uninstall --yes pip setuptools

FROM base AS runtime
RUN rm -rf /usr/local/lib/python3.*/site-packages/pip* /usr/local/lib/python3.*/site-packages/setuptools* \
    /usr/local/lib/python3.*/site-packages/wheel* /usr/local/bin/pip* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin flockwatch \
    && install --directory --owner=flockwatch --group=flockwatch /var/lib/flockwatch /etc/flockwatch
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/flockwatch
USER 10001:10001
ENTRYPOINT ["flockwatch"]
CMD ["--help"]

FROM runtime AS server
COPY --from=server-libraries /opt/flockwatch /opt/flockwatch
COPY --from=wheel /code /opt/flockwatch

FROM runtime AS edge
COPY --from=edge-libraries /opt/flockwatch /opt/flockwatch
COPY --from=wheel /code /opt/flockwatch

FROM runtime AS detector
COPY --from=detector-libraries /opt/flockwatch /opt/flockwatch
COPY --from=wheel /code /opt/flockwatch

# Fills the volumes of the demo cluster.
FROM server AS setup
USER 0
RUN install --directory --owner=flockwatch --group=flockwatch /volumes/pki /volumes/server /volumes/state \
    /volumes/broker /volumes/player /volumes/machine-1 /volumes/machine-2 /volumes/machine-3 \
    /volumes/machine-4
USER 10001:10001
COPY deploy/setup.py /setup.py
ENTRYPOINT ["python", "/setup.py"]
CMD []

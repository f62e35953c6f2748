# One image with the three commands: tq-cluster, tq-worker, tq-admin.
# Builds with BuildKit and with the classic builder.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# What is installed has no pip: the one of the build environment reaches in.
RUN python -m venv /build && python -m venv --without-pip /opt/tq
COPY requirements.lock ./
RUN /build/bin/pip --python /opt/tq/bin/python install --require-hashes -r requirements.lock

# The generators, as pyproject.toml pins them; a layer of their own, since they rarely change.
COPY pyproject.toml ./
RUN /build/bin/python -c "import tomllib; \
    print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
    >build-requires.txt && /build/bin/pip install -r build-requires.txt

COPY README.md hatch_build.py ./
COPY scripts/generate_options.py scripts/generate_protos.py scripts/
COPY proto/ proto/
COPY tq_admin/ tq_admin/
COPY tq_client/ tq_client/
COPY tq_cluster/ tq_cluster/
COPY tq_common/ tq_common/
COPY tq_process/ tq_process/
COPY tq_worker/ tq_worker/
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/tq/bin/python install --no-deps --no-index /wheels/tq-*.whl


FROM python:3.11-slim-bookworm
# A number of its own, so that a volume's files belong to nobody else on the host.
RUN groupadd --gid 10001 tq \
    && useradd --uid 10001 --gid tq --home-dir /var/lib/tq --shell /usr/sbin/nologin tq \
    && install -d -o tq -g tq -m 750 /var/lib/tq /var/lib/tq-secret \
    && install -d /app
COPY --from=build /opt/tq /opt/tq
# /app is where an image built on this one puts its handlers.
ENV PATH=/opt/tq/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
CMD ["tq-cluster", "--help"]

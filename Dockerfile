# The environment of requirements.lock, by the Makefile's own steps. Build: make image
# Run on this machine's GPUs (the driver's container toolkit gives them):
#   docker run --gpus all -v "$PWD:/rwp" -w /rwp rwp snakemake --cores 8 results/table2.csv
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git make procps python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/rwp
COPY . .
RUN make setup \
    && make extra-slurm extra-kubernetes extra-remotes extra-server \
    && rm -rf /root/.cache
ENV PATH=/opt/rwp/.venv/bin:$PATH
# `docker run --user 1234`: a user without name and home, a project that git takes for another's.
ENV USER=rwp XDG_CACHE_HOME=/tmp/cache
RUN git config --system --add safe.directory '*'
CMD ["rwp", "--help"]

# ssltool in a container, by conda-forge's packages.
#
#   docker build -t ssltool .                          for processors
#   docker build -t ssltool --build-arg CUDA=12.9 .    for GPUs whose driver takes CUDA 12.9
#   docker run --rm --user "$(id -u):$(id -g)" -v /path/to/images:/data:ro -v "$PWD/runs":/runs \
#     ssltool pretrain /data -a resnet18     as the owner of the folder ./runs, which must exist
FROM mambaorg/micromamba:2.3.0

# conda-forge chooses PyTorch's build by this variable: without CUDA if it is empty.
ARG CUDA=""
ENV CONDA_OVERRIDE_CUDA=$CUDA

COPY --chown=$MAMBA_USER:$MAMBA_USER . /opt/ssltool
WORKDIR /opt/ssltool
RUN micromamba install --yes --name base --file environment.yml && micromamba clean --all --yes

# The user of the image is not root; runs belong to it.
USER root
RUN install --directory --owner="$MAMBA_USER" --group="$MAMBA_USER" /data /runs
USER $MAMBA_USER
VOLUME ["/data", "/runs"]
WORKDIR /runs
ENTRYPOINT ["/usr/local/bin/_entrypoint.sh", "ssltool"]
CMD ["--help"]

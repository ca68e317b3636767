# hear_axlstm on a CPU:         docker build -t hear_axlstm .
# on an NVIDIA GPU:             docker build -t hear_axlstm --build-arg TORCH=https://download.pytorch.org/whl/cu128 .
# docker run --rm -v "$PWD:/data" hear_axlstm embed recordings --out scenes.npy
FROM python:3.11-slim-bookworm AS build
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# PyTorch is the largest layer by far, and changes least.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --index-url "$TORCH" torch
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ".[finetune,parquet]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEAR_AXLSTM_CACHE=/data/.hear_axlstm
RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["axlstm"]
CMD ["--help"]

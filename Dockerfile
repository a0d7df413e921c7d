# A model behind HTTP, on the CPU: docker build -t equimos . && docker run -p 8000:8000 -e EQUIMOS_API_KEY=… \
#   -v ./models:/models equimos --model /models/parts.safetensors
# Corrections on the page: add --learn --collect /models/named. The model file needs its backbone inside
# (equimos learn --embed-backbone), or the weights beside it (--weights /models/FILE).
# What it writes lies in /models: let user 10001 write there (chown 10001 models), or run it as the folder's owner
# (docker run --user "$(id -u)"). With --read-only it needs --tmpfs /tmp.
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
# Of the wheels that PyTorch has for the CPU alone, which are a tenth of the size, the same version counts as newer.
RUN pip install --find-links https://download.pytorch.org/whl/cpu/torch \
    --find-links https://download.pytorch.org/whl/cpu/torchvision torch torchvision
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY continual continual
COPY equivariant equivariant
COPY configs configs
RUN pip install ".[serve]" && rm -rf /src
RUN useradd --create-home --uid 10001 equimos && mkdir /models && chown equimos /models
USER equimos
WORKDIR /models
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["equimos", "serve", "--host", "0.0.0.0"]

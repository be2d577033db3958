# The gateway alone: a static binary on an empty base, as an unprivileged user. Triton is another container (deploy/compose.yaml).
# Not run by the tests of this project, which have no container engine; build it from the root:
#   docker build -f deploy/gateway.Dockerfile -t facediffuser .
#
# Without a key nobody is let in: make one into the volume that the gateway mounts, which prints it once.
#   docker run --rm -v facediffuser-keys:/keys facediffuser keys create --name me
#   docker run --rm -v facediffuser-keys:/keys:ro -p 8080:8080 -e FACEDIFFUSER_TRITON=triton:8001 facediffuser
#
# The base images are named by tag: their digests cannot be known where this project is built, which reaches no registry of images. Pin
# them where you build (docker buildx imagetools inspect IMAGE says the digest; write IMAGE@sha256:…).
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN mkdir /out /out/keys && echo '{"keys": []}' >/out/keys/keys.json
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/facediffuser ./gateway

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/facediffuser /usr/local/bin/facediffuser
# A family's pipeline.json and tokenizer; mount another over it. Its weights stay with Triton.
COPY --from=build /src/model_repository/mini/pipeline.json /family/
COPY --from=build /src/model_repository/mini/tokenizer /family/tokenizer
# The folder belongs to whom the program runs as, so that a volume mounted here does too.
COPY --from=build --chown=nonroot:nonroot /out/keys /keys
ENV FACEDIFFUSER_LISTEN=0.0.0.0:8080 FACEDIFFUSER_KEYS_FILE=/keys/keys.json FACEDIFFUSER_FAMILY=/family FACEDIFFUSER_LOG_FORMAT=json
EXPOSE 8080
USER nonroot
# The base has no shell and no curl, so the program asks itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["facediffuser", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["facediffuser"]
CMD ["serve"]

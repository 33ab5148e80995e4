# The image of the agent: its static programs, on a base that has Nix.
#
#   docker buildx build --platform linux/amd64,linux/arm64 -t IMAGE .
#   deploy/image/build IMAGE       where no image can be pulled: as root, with buildah
#
# Any base with apt-get or Nix will do as NIX_BASE; deploy/image/prepare adds what it
# lacks. On a base of your own, give one with a maintained Nix.

ARG GO_BASE=docker.io/library/golang:1.26.8-trixie
ARG NIX_BASE=docker.io/nixos/nix:2.34.8

# Go compiles for the other architecture faster than an emulator runs.
FROM --platform=$BUILDPLATFORM ${GO_BASE} AS build
ENV PATH=/usr/local/go/bin:$PATH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH
ARG VERSION=unknown
RUN CGO_ENABLED=0 GOOS=linux GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=${VERSION}" -o /out/ ./cmd/...

FROM ${NIX_BASE}
# For a base made by Nix: the nixpkgs that e2fsprogs and mount are taken from.
ARG NIXPKGS=https://github.com/NixOS/nixpkgs/archive/8fd9daa3db09ced9700431c5b7ad0e8ba199b575.tar.gz
COPY deploy/image/prepare /tmp/prepare
RUN NIXPKGS="${NIXPKGS}" /tmp/prepare && rm /tmp/prepare
COPY deploy/image/nix-daemon /usr/local/bin/closured-nix-daemon
COPY --from=build /out/ /usr/local/bin/

# Of Debian, and of a base made by Nix.
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/root/.nix-profile/bin:/nix/var/nix/profiles/default/bin
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="closured" \
      org.opencontainers.image.description="Nix closures as volumes of Kubernetes pods: the node agent, and Nix" \
      org.opencontainers.image.source="https://github.com/closured/closured" \
      org.opencontainers.image.documentation="https://github.com/closured/closured/blob/main/docs/install.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The agent mounts, and the daemon chowns: both are root. The other programs are
# given another user by their manifests.
USER 0
ENTRYPOINT ["/usr/local/bin/closured"]

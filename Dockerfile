# The image is one static binary, the certificates of public authorities and an empty data
# directory. It runs as any user, with a read-only root; only /data is written, and that only
# with SQLite.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -buildid= -X main.version=${VERSION}" -o /out/kapsel ./cmd/kapsel \
 && install -d -m 0700 -o 65532 -g 65532 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/kapsel /kapsel
COPY --from=build --chown=65532:65532 /out/data /data
ENV DATABASE_URL=sqlite:/data/kapsel.db
ENV KAPSEL_LISTEN=0.0.0.0:8080
VOLUME /data
EXPOSE 8080 9464
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["/kapsel", "health"]
ENTRYPOINT ["/kapsel"]
CMD ["serve"]

// A server that tasks go to: quick, slow, failing, paused and hostile, by path.
import { createServer } from "node:http";

const PNG = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9AAAAFUlEQVR42mNk+M9Qz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC",
  "base64",
);

export async function startOrigin() {
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://origin");
    const [, kind, argument] = url.pathname.split("/");
    const end = (status, headers, body) => {
      response.writeHead(status, headers);
      response.end(body);
    };
    switch (kind) {
      case "status":
        return end(Number(argument), { "content-type": "text/plain" }, `status ${argument}\n`);
      case "retry-after":
        return end(503, { "retry-after": argument }, "later\n");
      case "json":
        return end(200, { "content-type": "application/json" }, JSON.stringify({ name: "haul", list: [1, 2, { deep: true }], none: null }));
      case "large":
        return end(200, { "content-type": "application/json" }, '{"id": 9007199254740993, "text": "1"}');
      case "exact":
        return end(200, { "content-type": "application/json" }, '{"id": 1234.5, "text": "9007199254740993 \\" 1e999"}');
      case "png":
        return end(200, { "content-type": "image/png" }, PNG);
      case "html":
        return end(200, { "content-type": "text/html", "x-evil": "<script>alert(1)</script>" }, "<script>document.title='hacked'</script><img src=x onerror=alert(1)>\u202e");
      case "bytes":
        return end(200, { "content-type": "application/octet-stream" }, Buffer.from([...Array(300).keys()].map((it) => it % 256)));
      case "long":
        return end(200, { "content-type": "text/plain" }, "x".repeat(1 << 20));
      case "slow": {
        // Bytes a second, of as many as the query says.
        const total = Number(url.searchParams.get("bytes") ?? 1e6);
        const rate = Number(argument);
        response.writeHead(200, { "content-length": total, etag: '"same"', "accept-ranges": "none" });
        let sent = 0;
        const timer = setInterval(() => {
          const size = Math.min(total - sent, Math.ceil(rate / 10));
          sent += size;
          response.write(Buffer.alloc(size, 97));
          if (sent >= total) clearInterval(timer), response.end();
        }, 100);
        response.on("close", () => clearInterval(timer));
        return;
      }
      case "hang":
        return;
      default:
        return end(200, { "content-type": "text/plain", etag: '"v1"' }, `content of ${url.pathname}\n`);
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  return {
    host: `127.0.0.1:${port}`,
    url: (path) => `http://127.0.0.1:${port}/${path}`,
    stop: () => (server.closeAllConnections(), server.close()),
  };
}

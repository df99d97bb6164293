// Jobs of every kind, so that each page has something to show.
import { downloadOf, fetchOf } from "./server.mjs";

export const HOSTILE = [
  "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\u202egnp.exe", "{{7*7}} ${7*7} javascript:alert(1)",
  "\u2066\u2067hidden\u2069 \u200bzero", "a".repeat(256), "\"'><b>", "&lt;b&gt; %00 %0a",
];

export async function seed(server, origin) {
  const collect = { mode: "GROUP_MODE_COLLECT" };
  const once = { retry: { max_attempts: 1 } };
  const many = (count, make) => Array.from({ length: count }, (_, at) => make(at));
  const ids = {};
  ids.docs = await server.submit({ title: "docs snapshot", labels: { team: "docs" }, tasks: many(40, (at) => fetchOf(origin.url(`ok/page-${at}`))) });
  ids.failed = await server.submit({
    title: "partner feed", labels: { team: "data", env: "prod", note: "long".repeat(40) }, group: collect, defaults: once,
    tasks: [...many(28, (at) => fetchOf(origin.url(`ok/${at}`))), ...many(9, () => fetchOf(origin.url("status/403"))), ...many(3, () => fetchOf(origin.url("status/500")))],
  });
  ids.content = await server.submit({
    title: "contents of every kind", group: collect,
    tasks: [fetchOf(origin.url("json")), fetchOf(origin.url("png")), fetchOf(origin.url("html")), fetchOf(origin.url("bytes")), fetchOf(origin.url("long")), downloadOf(origin.url("ok/file.bin"), {}), fetchOf(origin.url("ok/plain"))],
  });
  for (const [at, text] of HOSTILE.entries()) {
    await server.submit({ title: text.slice(0, 250), labels: { [`l${at}`]: text.slice(0, 250) }, group: collect, defaults: once, tasks: [fetchOf(origin.url(`html/${encodeURIComponent(text)}`), { key: text.slice(0, 200) }), fetchOf(origin.url(`status/404?q=${encodeURIComponent(text)}`))] });
  }
  ids.cancelled = await server.submit({ title: "abandoned crawl", tasks: many(12, () => fetchOf(origin.url("hang"))) });
  await server.call("POST", `/v1/jobs/${ids.cancelled}:cancel`, {});
  ids.backing = await server.submit({ title: "flaky mirror", labels: { team: "ml" }, group: collect, defaults: { retry: { max_attempts: 50, initial_backoff: "30s" } }, tasks: [...many(4, () => fetchOf(origin.url("status/502"))), fetchOf(origin.url("hang"))] });
  ids.running = await server.submit({
    title: "nightly mirror", labels: { team: "ml", env: "prod", owner: "sofia" }, group: collect, priority: 5,
    tasks: [...many(60, (at) => fetchOf(origin.url(`ok/${at}`))), ...many(24, (at) => downloadOf(origin.url(`slow/400000?bytes=${60e6}&n=${at}`), {})), ...many(300, (at) => fetchOf(origin.url(`ok/tail-${at}`)))],
  });
  ids.paused = await server.submit({ title: "hf weights", labels: { team: "ml" }, tasks: many(60, () => fetchOf(origin.url("hang"))) });
  await server.call("POST", `/v1/jobs/${ids.paused}:pause`, {});
  for (const id of [ids.docs, ids.failed, ids.content]) await server.wait(id);
  return ids;
}

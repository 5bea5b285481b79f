// A small web service on Hono: says hello, echoes a name, answers a health check.
import { serve } from "@hono/node-server";
import { Hono } from "hono";

const app = new Hono();
app.get("/", (c) => c.json({ message: "hello from a container built by rbuild", node: process.version }));
app.get("/hello/:name", (c) => c.text(`hello, ${c.req.param("name")}\n`));
app.get("/healthz", (c) => c.text("ok\n"));

const port = Number(process.env.PORT ?? 8000);
const hostname = process.env.HOST ?? "0.0.0.0";
const server = serve({ fetch: app.fetch, port, hostname }, (at) => console.log(`listening on ${at.address}:${at.port}`));

// As process 1 the default action of SIGTERM is nothing, so stopping is asked for by name.
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => server.close(() => process.exit(0)));
}

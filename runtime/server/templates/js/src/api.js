// A function that answers HTTP requests, each in an instance of its own.

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const path = new URL(request.url).pathname;
  // A line that is a JSON object is told with its fields: cloudlet logs
  console.log(JSON.stringify({ message: "asked", path }));
  return Response.json({ hello: path, method: request.method });
}

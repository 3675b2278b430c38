// The frame of the client programs in JavaScript: what telling.py is for those in Python.

export const URL = process.env.CORRAL_URL;
export const AGENT = "antigravity-preview-09-2026";
export const NOBODY = "0".repeat(32);

export const SKIES = { Bonn: "sunny", Oslo: "snow", Rome: "rain" };
export const ASKS_TWICE = `\`\`\`script
turns:
  - calls: [{tool: get_weather, arguments: {city: Bonn}}, {tool: get_weather, arguments: {city: Oslo}}]
  - calls: [{tool: get_weather, arguments: {city: Rome}}]
  - text: "In Rome: {{last}}"
\`\`\``;
export const WORKS = `\`\`\`script
turns:
  - thought: Count first.
    calls: [{tool: code_execution, arguments: {language: bash, code: "seq 3"}}]
  - calls: [{tool: write_file, arguments: {path: counted.txt, content: "1 2 3"}}]
  - text: One, two, three.
    chunk: 4
\`\`\``;
export const SEARCHES = `\`\`\`script
turns:
  - calls: [{tool: google_search, arguments: {queries: [corral]}}]
  - calls: [{tool: url_context, arguments: {urls: ["https://example.com/"]}}]
  - text: Neither is there.
\`\`\``;
export const TELLS_FORECAST = `\`\`\`script
turns:
  - text: '{"city": "Bonn", "degrees": 21}'
\`\`\``;

export const bash = (code) => `\`\`\`bash\n${code}\n\`\`\``;

// Runs all stories at once and prints `{story: {"saw": what it returned} or {"failed": why}}`.
export async function tell(stories) {
  const told = await Promise.all(
    Object.entries(stories).map(async ([name, story]) => {
      try {
        return [name, { saw: await story() }];
      } catch (error) {
        return [name, { failed: `${error?.stack ?? error}\n${error?.responseBody ?? ""}` }];
      }
    }),
  );
  console.log(JSON.stringify(Object.fromEntries(told)));
}

// Asks as a user who polls would; the first answer for which it holds.
export async function until(answer, holds) {
  for (let left = 300; left > 0; left -= 1) {
    const found = await answer();
    if (holds(found)) return found;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error("it never held");
}

export async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

// What went wrong, as users catch it.
export async function outcome(attempt) {
  try {
    await attempt();
  } catch (error) {
    return {
      name: error.name,
      status: error.status ?? error.statusCode ?? null,
      message: error.message,
      body: error.responseBody,
    };
  }
  return { name: "nothing" };
}

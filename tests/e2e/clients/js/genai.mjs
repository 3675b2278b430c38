// The official JavaScript SDK.

import { GoogleGenAI } from "@google/genai";

import {
  AGENT,
  ASKS_TWICE,
  NOBODY,
  SEARCHES,
  SKIES,
  TELLS_FORECAST,
  URL,
  WORKS,
  all,
  bash,
  outcome,
  tell,
  until,
} from "./telling.mjs";

const WEATHER = {
  type: "function",
  name: "get_weather",
  description: "The weather of a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const FORMAT = {
  type: "text",
  mime_type: "application/json",
  schema: {
    type: "object",
    properties: { city: { type: "string" }, degrees: { type: "integer" } },
    required: ["city", "degrees"],
  },
};

const { interactions, environments } = new GoogleGenAI({ apiKey: "any", httpOptions: { baseUrl: URL } });
const create = (input, fields = {}) => interactions.create({ agent: AGENT, input, ...fields });
const kinds = (interaction) => interaction.steps.map((step) => step.type);
const results = (interaction) =>
  interaction.steps.filter((step) => step.type.endsWith("_result")).map((step) => step.result);
const deltas = (events, type) => events.filter((event) => event.delta?.type === type).map((event) => event.delta);
const textOf = (events) =>
  deltas(events, "text")
    .map((delta) => delta.text)
    .join("");

async function unary() {
  const environment = {
    type: "remote",
    sources: [{ type: "inline", target: "workspace/note.txt", content: "as agreed" }],
    env: { MODE: "batch" },
  };
  const made = await create(bash("cat note.txt; echo; echo $MODE"), { environment });
  const read = await interactions.get(made.id, { include_input: true });
  return {
    status: made.status,
    output_text: made.output_text,
    kinds: kinds(made),
    read_kinds: kinds(read),
    same_steps: JSON.stringify(read.steps.slice(1)) === JSON.stringify(made.steps),
    results: results(made),
    has_environment: Boolean(made.environment_id),
    tokens: made.usage.total_tokens,
  };
}

async function stream() {
  const live = await all(await create(WORKS, { environment: "remote", stream: true }));
  const { id } = live[0].interaction;
  const replayed = await all(await interactions.get(id, { stream: true }));
  return {
    kinds: live.map((event) => event.event_type),
    delta_kinds: [...new Set(live.filter((event) => event.delta).map((event) => event.delta.type))],
    has_ids: live.every((event) => event.event_id),
    text: textOf(live),
    status: live.at(-1).interaction.status,
    tokens: live.at(-1).interaction.usage.total_tokens,
    replay_is_the_same: JSON.stringify(replayed) === JSON.stringify(live),
  };
}

async function background() {
  const begun = await create(bash("sleep 1; echo done"), { environment: "remote", background: true });
  const ended = await until(
    () => interactions.get(begun.id),
    (found) => found.status !== "in_progress",
  );
  const long = await create(bash("sleep 300"), { environment: begun.environment_id, background: true });
  await until(
    () => interactions.get(long.id),
    (found) => kinds(found).includes("code_execution_call"),
  );
  const cancelled = await interactions.cancel(long.id);
  const after = await interactions.get(long.id);
  await interactions.delete(long.id);
  return {
    began_as: begun.status,
    status: ended.status,
    results: results(ended),
    cancel_says: cancelled.status,
    then_reads: after.status,
    after_delete: (await outcome(() => interactions.get(long.id))).name,
  };
}

async function resume() {
  const seen = [];
  for await (const event of await create(WORKS, { environment: "remote", stream: true, background: true })) {
    seen.push(event);
    if (seen.length === 5) break;
  }
  const { id } = seen[0].interaction;
  const rest = await all(await interactions.get(id, { stream: true, last_event_id: seen.at(-1).event_id }));
  const whole = await all(await interactions.get(id, { stream: true }));
  return {
    seen: seen.length,
    joined_is_whole: JSON.stringify([...seen, ...rest]) === JSON.stringify(whole),
    status: rest.at(-1).interaction.status,
    text: textOf(rest),
  };
}

async function conversation() {
  const first = await create(bash("echo kept >kept.txt"), { environment: "remote" });
  const same = { environment: first.environment_id };
  const second = await create([{ type: "text", text: bash("cat kept.txt") }], {
    ...same,
    previous_interaction_id: first.id,
  });
  const typed = await create([{ type: "user_input", content: [{ type: "text", text: bash("cat kept.txt") }] }], {
    ...same,
    previous_interaction_id: second.id,
  });
  return {
    statuses: [first, second, typed].map((each) => each.status),
    previous: [second.previous_interaction_id === first.id, typed.previous_interaction_id === second.id],
    one_environment: new Set([first, second, typed].map((each) => each.environment_id)).size === 1,
    results: [second, typed].map((each) => results(each)[0]),
  };
}

async function model() {
  const made = await interactions.create({
    model: "gemini-3.8-flash",
    input: "```script\nturns: [{text: 'One, two, three.'}]\n```",
    system_instruction: "Count.",
    generation_config: { max_output_tokens: 2 },
  });
  return { model: made.model, status: made.status, text: made.output_text };
}

async function functions() {
  let asked = await create(ASKS_TWICE, { tools: [WEATHER] });
  const statuses = [asked.status];
  const cities = [];
  while (asked.status === "requires_action" && statuses.length < 5) {
    const calls = asked.steps.filter((step) => step.type === "function_call");
    cities.push(calls.map((call) => call.arguments.city));
    const given = calls.map((call) => ({
      type: "function_result",
      name: call.name,
      call_id: call.id,
      result: { sky: SKIES[call.arguments.city] },
    }));
    asked = await create(given, { tools: [WEATHER], previous_interaction_id: asked.id });
    statuses.push(asked.status);
  }
  return { statuses, cities, text: asked.output_text };
}

// Keeps the conversation itself: each call gets all steps again.
async function functionsReplayed() {
  const history = [{ type: "user_input", content: [{ type: "text", text: ASKS_TWICE }] }];
  const statuses = [];
  let made;
  do {
    made = await create(history, { tools: [WEATHER], store: false });
    statuses.push(made.status);
    const calls = made.steps.filter((step) => step.type === "function_call");
    history.push(
      ...made.steps,
      ...calls.map(({ id, name, arguments: { city } }) => ({
        type: "function_result",
        name,
        call_id: id,
        result: SKIES[city],
      })),
    );
  } while (made.status === "requires_action" && statuses.length < 5);
  return { statuses, text: made.output_text };
}

async function stateless() {
  const made = await create(bash("echo hello"), { environment: "remote", store: false });
  const events = await all(
    await create(bash("echo hello"), { environment: made.environment_id, store: false, stream: true }),
  );
  return {
    id: made.id ?? null,
    status: made.status,
    results: results(made),
    streamed_id: events[0].interaction.id,
    streamed: events.at(-1).interaction.status,
    background: await outcome(() => create("x", { store: false, background: true })),
  };
}

async function structured() {
  const made = await create(TELLS_FORECAST, { response_format: FORMAT });
  const events = await all(await create(TELLS_FORECAST, { response_format: FORMAT, stream: true }));
  return { answer: JSON.parse(made.output_text), streamed: JSON.parse(textOf(events)) };
}

async function offered() {
  const made = await create(SEARCHES, { tools: [{ type: "google_search" }, { type: "url_context" }] });
  return {
    status: made.status,
    kinds: kinds(made),
    is_error: made.steps.filter((step) => step.type.endsWith("_result")).map((step) => step.is_error),
    text: made.output_text,
  };
}

async function files() {
  const made = await create(bash("echo 1,2 > table.csv"), { environment: "remote" });
  const environment = made.environment_id;
  const large = new Uint8Array(2 * 8 * 1024 * 1024 + 5).map((_, at) => at % 251);
  const { files } = environments;
  const uploaded = await files.upload({ environment, path: "workspace/data/large.bin", file: large });
  const empty = await files.upload({ environment, path: "workspace/empty", file: new Uint8Array() });
  const listed = await files.list({ environment, path: "workspace", recursive: true });
  const back = await files.download({ environment, path: "workspace/data/large.bin" });
  const table = await files.download({ environment, path: "workspace/table.csv" });
  return {
    uploaded: uploaded.files.map((each) => each.path),
    empty: empty.files.map((each) => each.path),
    listed: listed.files.map((each) => [each.path, each.type.toLowerCase(), Number(each.size_bytes ?? -1)]),
    came_back: Buffer.compare(Buffer.from(back), Buffer.from(large)) === 0,
    table: new TextDecoder().decode(table),
    missing: await outcome(() => files.list({ environment, path: "workspace/none" })),
  };
}

async function errors() {
  const attempts = {
    agent: () => interactions.create({ agent: "nobody", input: "x" }),
    environment: () => create("x", { environment: NOBODY }),
    previous: () => create("x", { previous_interaction_id: "v1_nobody" }),
    field: () => create("x", { inptu: "y" }),
    read: () => interactions.get("v1_nobody"),
    cancel: () => interactions.cancel("v1_nobody"),
    stream: async () => all(await create("x", { environment: NOBODY, stream: true })),
  };
  const seen = {};
  for (const [name, attempt] of Object.entries(attempts)) seen[name] = await outcome(attempt);
  return seen;
}

await tell({
  unary,
  stream,
  background,
  resume,
  conversation,
  model,
  functions,
  "functions replayed": functionsReplayed,
  stateless,
  structured,
  offered,
  files,
  errors,
});

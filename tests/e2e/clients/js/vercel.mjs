// The Vercel AI SDK with `google.interactions` of its Google provider.

import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { Output, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

import {
  AGENT,
  ASKS_TWICE,
  NOBODY,
  SEARCHES,
  SKIES,
  TELLS_FORECAST,
  URL,
  WORKS,
  bash,
  outcome,
  tell,
  until,
} from "./telling.mjs";

const google = createGoogleGenerativeAI({ apiKey: "any", baseURL: `${URL}/v1beta` });
const agent = google.interactions({ agent: AGENT });
// What the provider does for models only: structured output, and functions in answers that are not streamed.
const model = google.interactions("gemini-3.8-flash");
const options = (fields) => ({ providerOptions: { google: fields } });
const parts = (result, type) => result.content.filter((part) => part.type === type);

async function readBack(result) {
  const id = result.providerMetadata.google.interactionId;
  return (await fetch(`${URL}/v1beta/interactions/${id}`)).json();
}

// The environment of stories that do not care in which they are told.
const home = generateText({ model: agent, prompt: bash("true"), ...options({ environment: "remote" }) }).then(
  async (made) => (await readBack(made)).environment_id,
);

const COUNTS = `\`\`\`script
turns:
  - thought: Count first.
    calls: [{tool: code_execution, arguments: {language: bash, code: "seq 3"}}]
  - text: One, two, three.
    chunk: 4
\`\`\``;

async function unary() {
  const result = await generateText({ model: agent, prompt: COUNTS, ...options({ environment: "remote" }) });
  return {
    text: result.text,
    thought: result.reasoningText,
    finish: result.finishReason,
    tokens: result.usage.totalTokens,
    calls: parts(result, "tool-call").map((part) => [part.toolName, part.providerExecuted ?? false]),
    results: parts(result, "tool-result").map((part) => part.toolName),
    has_id: Boolean(result.providerMetadata.google.interactionId),
    has_environment: JSON.stringify(result.providerMetadata).includes("environment"),
    warnings: result.warnings ?? [],
  };
}

async function streamed(fields) {
  const errors = [];
  const result = streamText({
    model: agent,
    prompt: COUNTS,
    onError: ({ error }) => errors.push(String(error)),
    ...options(fields),
  });
  const kinds = [];
  for await (const part of result.fullStream) kinds.push(part.type);
  return {
    text: await result.text,
    thought: await result.reasoningText,
    finish: await result.finishReason,
    tokens: (await result.usage).totalTokens,
    kinds: [...new Set(kinds)],
    has_id: Boolean((await result.providerMetadata).google.interactionId),
    errors,
  };
}

const stream = async () => streamed({ environment: await home });
const streamInTheBackground = async () => streamed({ environment: await home, background: true });

// The provider takes calls of the server's file tools for calls of the client's functions.
async function files() {
  const result = await generateText({ model: agent, prompt: WORKS, ...options({ environment: await home }) });
  return { text: result.text, finish: result.finishReason };
}

async function poll() {
  const result = await generateText({
    model: agent,
    prompt: bash("sleep 0.5; echo done"),
    ...options({ environment: await home, background: true }),
  });
  return { finish: result.finishReason, text: result.text };
}

// An aborted call in the background is cancelled at the server.
async function abort() {
  const environment = await home;
  const controller = new AbortController();
  let id;
  const result = streamText({
    model: agent,
    prompt: bash("sleep 300"),
    abortSignal: controller.signal,
    includeRawChunks: true,
    onError: () => {},
    ...options({ environment, background: true }),
  });
  for await (const part of result.fullStream) {
    if (part.type === "raw" && part.rawValue.event_type === "interaction.created") id = part.rawValue.interaction.id;
    if (part.type === "tool-call") controller.abort();
  }
  const ended = await until(
    async () => (await fetch(`${URL}/v1beta/interactions/${id}`)).json(),
    (found) => found.status !== "in_progress",
  );
  return { status: ended.status };
}

async function conversation() {
  const first = await generateText({
    model: agent,
    prompt: bash("echo kept >kept.txt"),
    ...options({ environment: "remote" }),
  });
  const environment = (await readBack(first)).environment_id;
  const previousInteractionId = first.providerMetadata.google.interactionId;
  const second = await generateText({
    model: agent,
    messages: [
      { role: "user", content: bash("echo kept >kept.txt") },
      ...first.response.messages,
      { role: "user", content: bash("cat kept.txt") },
    ],
    ...options({ environment, previousInteractionId }),
  });
  const read = await readBack(second);
  return {
    text: second.text,
    previous: read.previous_interaction_id === previousInteractionId,
    one_environment: read.environment_id === environment,
  };
}

const weather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => SKIES[city],
});

// Each step sends the whole conversation again, the results of functions among the user's contents.
async function functions(of, run) {
  const cities = [];
  const errors = [];
  const tools = {
    get_weather: tool({ ...weather, execute: async ({ city }) => (cities.push(city), SKIES[city]) }),
  };
  const result = await run({
    model: of,
    prompt: ASKS_TWICE,
    tools,
    stopWhen: isStepCount(5),
    onError: ({ error }) => errors.push(error.responseBody ?? String(error)),
  });
  return { cities, text: await result.text, finish: await result.finishReason, errors };
}

const functionsOfModel = () => functions(model, generateText);
const functionsStreamed = () =>
  functions(agent, async (fields) => {
    const result = streamText(fields);
    await result.consumeStream();
    return result;
  });

// Of an agent, `generateText` waits for calls of functions as it does for a run in the background.
async function functionsOfAgentPolled() {
  const attempt = () =>
    generateText({
      model: agent,
      prompt: ASKS_TWICE,
      tools: { get_weather: weather },
      maxRetries: 0,
      ...options({ pollingTimeoutMs: 500 }),
    });
  return (await outcome(attempt)).message;
}

async function stateless() {
  const result = await generateText({
    model: agent,
    prompt: bash("echo hello"),
    ...options({ environment: await home, store: false }),
  });
  const live = streamText({
    model: agent,
    prompt: bash("echo hello"),
    ...options({ environment: await home, store: false }),
  });
  return {
    finish: result.finishReason,
    has_id: Boolean(result.providerMetadata.google.interactionId),
    streamed: [(await live.text).includes("hello"), await live.finishReason],
  };
}

async function structured() {
  const schema = z.object({ city: z.string(), degrees: z.number().int() });
  const result = await generateText({ model, prompt: TELLS_FORECAST, output: Output.object({ schema }) });
  return result.output;
}

async function offered() {
  const tools = { google_search: google.tools.googleSearch({}), url_context: google.tools.urlContext({}) };
  const result = await generateText({ model: agent, prompt: SEARCHES, tools });
  return {
    text: result.text,
    finish: result.finishReason,
    calls: parts(result, "tool-call").map((part) => part.toolName),
  };
}

async function errors() {
  const attempts = {
    agent: () => generateText({ model: google.interactions({ agent: "nobody" }), prompt: "x", maxRetries: 0 }),
    environment: () => generateText({ model: agent, prompt: "x", maxRetries: 0, ...options({ environment: NOBODY }) }),
    label: () => generateText({ model: agent, prompt: "x", maxRetries: 0, ...options({ labels: { Upper: "x" } }) }),
  };
  const seen = {};
  for (const [name, attempt] of Object.entries(attempts)) seen[name] = await outcome(attempt);
  return seen;
}

await tell({
  unary,
  stream,
  "stream in the background": streamInTheBackground,
  files,
  poll,
  abort,
  conversation,
  functions: functionsOfModel,
  "functions streamed": functionsStreamed,
  "functions of an agent, polled": functionsOfAgentPolled,
  stateless,
  structured,
  offered,
  errors,
});

"""Clients of a server that keeps dying: each plays one story after another and expects nothing but what was promised.

A request that is safe to repeat is repeated until it is answered. One that is not is sent once; if its answer is lost,
nobody knows what came of it, and the database is asked later.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2

from tests.crash.ground import MARK, running_calls
from tests.crash.ledger import ENDED, LEDGER_FILE, TOKEN, Json, Ledger, Violation
from tests.e2e.programs import call, run_bash, run_python, script

INTERACTIONS = "/v1beta/interactions"
ENVIRONMENTS = "/v1beta/environments"
AGENT = "general"
TEMPLATE_AGENT = "clerk"
TEMPLATE = """\
id: clerk
tools: [{type: code_execution}]
base_environment:
  sources: [{type: inline, target: workspace/rules.md, content: Be brief.}]
"""
_ENVIRONMENTS_LEAST = 4
_ENVIRONMENTS_MOST = 12
_ANSWER_TIMEOUT_S = 40.0
_POLL_S = 0.05
_LONG_CALL_S = 15.0
"""Longer than anybody waits whether a cancel has ended it."""
_CANCEL_GRACE_S = 4.0
_DOWN = (httpx2.ConnectError, httpx2.ConnectTimeout)
_CUT = (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError)


class Client:
    """Requests to a server that may be away for a while."""

    def __init__(self, url: str) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx2.AsyncClient(base_url=url, timeout=_ANSWER_TIMEOUT_S, limits=limits, trust_env=False)
        self.is_up = asyncio.Event()

    async def ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """The answer to a request that may be repeated; 503 and 429 are no answers."""
        while True:
            answer = await self.tell(method, path, **arguments)
            if answer is not None and answer.status_code not in (429, 503):
                return answer
            await asyncio.sleep(_POLL_S)

    async def tell(self, method: str, path: str, **arguments: Any) -> httpx2.Response | None:
        """The answer to a request that is sent once; None if it was lost."""
        while True:
            await self.is_up.wait()
            try:
                answer = await self.http.request(method, path, **arguments)
            except _DOWN:
                await asyncio.sleep(_POLL_S)
            except _CUT:
                return None
            except httpx2.TimeoutException as error:
                raise Violation("every request is answered", f"{method} {path}: {error!r}") from error
            else:
                return _checked(answer)

    async def read(self, interaction_id: str) -> Json:
        answer = await self.ask("GET", f"{INTERACTIONS}/{interaction_id}")
        if answer.status_code != 200:
            raise Violation("what was accepted is there", f"{interaction_id}: {answer.status_code} {answer.text}")
        return _object(answer)

    async def ended(self, interaction_id: str) -> Json:
        """The interaction once it has ended."""
        while (found := await self.read(interaction_id))["status"] not in ENDED:
            await asyncio.sleep(_POLL_S)
        return found

    async def replay(self, interaction_id: str) -> bytes:
        """All bytes of the stream of an interaction that has ended."""
        reader = Reader(self, interaction_id)
        await reader.read_to_end()
        return reader.whole


class Reader:
    """One reader of one stream, over as many connections as it takes."""

    def __init__(self, client: Client, interaction_id: str = "") -> None:
        self._client = client
        self.interaction_id = interaction_id
        self.whole = b""
        """All complete frames so far, comments left out."""
        self.torn: list[tuple[int, bytes]] = []
        """Beginnings of frames that a death cut off, and where they belong."""
        self._last_id = ""
        self._is_done = False

    async def create(self, body: Json) -> bool:
        """Reads the stream of a new interaction; whether it came so far that one knows which."""
        await self._client.is_up.wait()
        await self._follow("POST", INTERACTIONS, json={**body, "stream": True})
        return bool(self.interaction_id)

    async def read_to_end(self) -> None:
        """Goes on after the last event that was seen, until the end marker."""
        while not self._is_done:
            await self._client.is_up.wait()
            parameters = {"stream": "true", **({"last_event_id": self._last_id} if self._last_id else {})}
            await self._follow("GET", f"{INTERACTIONS}/{self.interaction_id}", params=parameters)
            if not self._is_done:
                await asyncio.sleep(_POLL_S)

    async def _follow(self, method: str, path: str, **arguments: Any) -> None:
        rest = b""
        try:
            async with self._client.http.stream(method, path, **arguments) as answer:
                if answer.status_code in (429, 503):
                    return
                if answer.status_code != 200:
                    said = (await answer.aread()).decode()
                    raise Violation("a stream can be read again", f"{path}: {answer.status_code} {said}")
                async for piece in answer.aiter_raw():
                    rest = self._take(rest + piece)
        except (*_DOWN, *_CUT):
            if rest and not b":".startswith(rest[:1]):
                self.torn.append((len(self.whole), rest))
            return
        if rest:
            raise Violation("a stream ends between events", f"{self.interaction_id}: {rest!r}")

    def _take(self, data: bytes) -> bytes:
        *frames, rest = data.split(b"\n\n")
        for frame in frames:
            if frame.startswith(b":"):
                continue
            self.whole += frame + b"\n\n"
            name, _, content = frame.partition(b"\ndata: ")
            if name == b"event: done":
                self._is_done = True
                continue
            event = httpx2.Response(200, content=content).json()
            self._last_id = event["event_id"]
            if "interaction" in event:
                self.interaction_id = event["interaction"]["id"]
        return rest


class Load:
    """The clients of one server. `run` until cancelled; `pause` lets them come to the end of their stories."""

    def __init__(self, client: Client, ledger: Ledger, seed: int, lane: int, *, has_client_functions: bool) -> None:
        self._client = client
        self._ledger = ledger
        self._random = random.Random(seed)
        self._lane = lane
        self._environments: list[str] = []
        self._may_go = asyncio.Event()
        self._busy: dict[int, str] = {}
        self._changed = asyncio.Condition()
        self.told: Counter[str] = Counter()
        """Stories that came to their end."""
        self.wish = ""
        """A story that is to be told more often, since the server is to die in it."""
        self._stories: dict[str, tuple[int, Callable[[], Coroutine[Any, Any, None]]]] = {
            "foreground": (3, self._foreground),
            "background": (3, self._background),
            "repeat": (3, self._repeat),
            "stream": (4, self._stream),
            "cancel": (4, self._cancel),
            "pair": (2, self._pair),
            "chain": (2, self._chain),
            "fork": (2, self._fork),
            "delete": (2, self._delete),
            "idle": (2, self._idle),
            "template": (1, self._template),
        }
        if has_client_functions:
            self._stories["ask_client"] = (2, self._ask_client)

    async def run(self, slots: int) -> None:
        """Plays stories in so many places at once."""
        self._may_go.set()
        async with asyncio.TaskGroup() as group:
            for slot in range(slots):
                group.create_task(self._play(slot))

    async def pause(self, limit_s: float) -> None:
        """Returns when nobody plays any more."""
        self._may_go.clear()
        try:
            async with asyncio.timeout(limit_s), self._changed:
                await self._changed.wait_for(lambda: not self._busy)
        except TimeoutError:
            left = ", ".join(self._busy.values())
            raise Violation("every story comes to its end", f"after {limit_s:.0f} s still there: {left}") from None

    def go_on(self) -> None:
        """Ends a pause."""
        self._may_go.set()

    async def _play(self, slot: int) -> None:
        names = list(self._stories)
        weights = [weight for weight, _ in self._stories.values()]
        while True:
            await self._may_go.wait()
            is_wished = self.wish in self._stories and self._random.random() < 0.6
            name = self.wish if is_wished else self._random.choices(names, weights)[0]
            self._busy[slot] = name
            try:
                await self._stories[name][1]()
                self.told[name] += 1
            finally:
                del self._busy[slot]
                async with self._changed:
                    self._changed.notify_all()

    # stories

    async def _foreground(self) -> None:
        await self._create(self._body())

    async def _repeat(self) -> None:
        """Repeats its create call until it is answered, as SDKs do. Its tokens are counted like all others: once."""
        key = {"Idempotency-Key": self._token()} if self._random.random() < 0.5 else {}
        answer = await self._client.ask("POST", INTERACTIONS, json=self._body(), headers=key)
        if self._is_gone(answer):
            return
        interaction = _accepted(answer)
        self._ledger.told(await self._client.ended(interaction["id"]))
        self._ledger.checks["a create call that is repeated is answered"] += 1
        self._remember(interaction.get("environment_id"))

    async def _background(self) -> None:
        if made := await self._create(self._body(background=True)):
            self._ledger.told(await self._client.ended(made["id"]))

    async def _stream(self) -> None:
        reader = Reader(self._client)
        if not await reader.create(self._body()):
            return
        self._ledger.accepted.add(reader.interaction_id)
        await reader.read_to_end()
        whole = await self._client.replay(reader.interaction_id)
        self._ledger.compare_stream(reader.interaction_id, reader.whole, whole)
        for at, torn in reader.torn:
            self._ledger.compare_stream(reader.interaction_id, reader.whole[:at] + torn, whole)

    async def _cancel(self) -> None:
        body = self._body(background=True, turns=3, longest_s=_LONG_CALL_S)
        made = await self._create(body)
        if made is None:
            return
        await asyncio.sleep(self._random.uniform(0, 1.5))
        again = self._random.random() < 0.3
        await asyncio.gather(*(self._cancel_once(made["id"]) for _ in range(1 + again)))
        tokens = set(TOKEN.findall(body["input"]))
        give_up_at = time.monotonic() + _CANCEL_GRACE_S
        while left := tokens & set(await asyncio.to_thread(running_calls)):
            if time.monotonic() > give_up_at:
                raise Violation("a cancelled call leaves no process", f"{made['id']}: {left}")
            await asyncio.sleep(_POLL_S)
        self._ledger.checks["a cancelled call leaves no process"] += 1

    async def _cancel_once(self, interaction_id: str) -> None:
        answer = await self._client.ask("POST", f"{INTERACTIONS}/{interaction_id}/cancel")
        interaction = _accepted(answer)
        if interaction["status"] not in ENDED:
            raise Violation("a cancel ends the run", f"{interaction_id} is {interaction['status']}")
        self._ledger.told(interaction)

    async def _pair(self) -> None:
        environment = self._environment()
        bodies = [self._body(background=True, environment=environment) for _ in range(2)]
        made = await asyncio.gather(*map(self._create, bodies))
        for each in made:
            if each is not None:
                self._ledger.told(await self._client.ended(each["id"]))

    async def _chain(self) -> None:
        first = await self._create(self._body(background=True))
        if first is None:
            return
        first = await self._client.ended(first["id"])
        fields = {"previous_interaction_id": first["id"]} if first["status"] == "completed" else {}
        body = self._body(background=True, environment=first["environment_id"]) | fields
        if second := await self._create(body):
            self._ledger.told(await self._client.ended(second["id"]))

    async def _fork(self) -> None:
        parent = self._environment()
        if parent == "remote":
            return
        answer = await self._client.tell("POST", ENVIRONMENTS, json={"from_environment": parent})
        # 409: its own start failed; it is to be tried again.
        if answer is None or answer.status_code in (409, 429, 503) or self._is_gone(answer):
            return
        child = _accepted(answer)["id"]
        self._ledger.origins[child] = parent
        self._environments.append(child)
        await self._create(self._body(environment=child))

    async def _delete(self) -> None:
        is_crowded = len(self._environments) > _ENVIRONMENTS_MOST
        environment = self._environments[0] if is_crowded else None
        if environment is None:
            made = await self._create(self._body(background=True, environment="remote"))
            if made is None:
                return
            environment = made["environment_id"]
            await asyncio.sleep(self._random.uniform(0, 1))
        if environment in self._environments:
            self._environments.remove(environment)
        self._ledger.deleting.add(environment)
        answer = await self._client.ask("DELETE", f"{ENVIRONMENTS}/{environment}")
        if answer.status_code not in (200, 404):
            raise Violation("what was deleted stays deleted", f"{environment}: {answer.status_code} {answer.text}")
        self._ledger.deleted.add(environment)

    async def _idle(self) -> None:
        environment = self._environment()
        await asyncio.sleep(self._random.uniform(1, 5))
        await self._create(self._body(environment=environment))

    async def _template(self) -> None:
        await self._create({**self._body(environment="remote", tools=False), "agent": TEMPLATE_AGENT})

    async def _ask_client(self) -> None:
        body = self._body(background=True, turns=1)
        name, is_answered = "get_weather", self._random.random() < 0.7
        body["input"] = script(run_bash(self._bash(0.2)), call(name, city="Bonn"), {"text": "{{last}}"})
        body["tools"] = [
            {"type": "code_execution"},
            {"type": "function", "name": name, "parameters": {"type": "object"}},
        ]
        made = await self._create(body)
        if made is None:
            return
        asked = await self._client.ended(made["id"])
        self._ledger.told(asked)
        if asked["status"] != "requires_action":
            return
        if not is_answered:
            if self._random.random() < 0.5:
                await self._cancel_once(made["id"])
            return
        question = asked["steps"][-1]
        result = {"type": "function_result", "call_id": question["id"], "name": name, "result": "sunny"}
        answer = {"agent": AGENT, "previous_interaction_id": made["id"], "input": [result], "background": True}
        if second := await self._create(answer):
            self._ledger.told(await self._client.ended(second["id"]))

    # requests

    async def _create(self, body: Json) -> Json | None:
        """The interaction as it was answered; None if the answer was lost, or its environment was deleted meanwhile."""
        answer = await self._client.tell("POST", INTERACTIONS, json=body)
        if answer is None or answer.status_code in (429, 503):
            return None
        if self._is_gone(answer):
            return None
        interaction = _accepted(answer)
        self._ledger.told(interaction)
        self._remember(interaction.get("environment_id"))
        return interaction

    def _remember(self, environment_id: str | None) -> None:
        if environment_id and environment_id not in self._environments + list(self._ledger.deleting):
            self._environments.append(environment_id)

    def _is_gone(self, answer: httpx2.Response) -> bool:
        """Whether it is refused since somebody deletes its environment."""
        return answer.status_code in (400, 404, 409) and any(each in answer.text for each in self._ledger.deleting)

    def _environment(self) -> str:
        """One that is there, or a new one."""
        count = len(self._environments)
        if count < _ENVIRONMENTS_LEAST or (count < _ENVIRONMENTS_MOST and self._random.random() < 0.15):
            return "remote"
        return self._random.choice(self._environments)

    def _body(
        self,
        *,
        background: bool = False,
        environment: str | None = None,
        turns: int | None = None,
        longest_s: float = 0.6,
        tools: bool = True,
    ) -> Json:
        count = turns if turns is not None else self._random.randint(1, 4)
        program = [self._turn(longest_s, tools=tools) for _ in range(count)]
        return {
            "agent": AGENT,
            "input": script(*program, {"text": "That was all of it.", "chunk": self._random.choice((3, 50))}),
            "environment": environment or self._environment(),
            **({"background": True} if background else {}),
        }

    def _turn(self, longest_s: float, *, tools: bool) -> Json:
        sleep_s = round(self._random.uniform(0, longest_s), 2) if self._random.random() < 0.7 else 0.0
        draw = self._random.random()
        if draw < 0.1 and tools:
            turn = call("write_file", path=f"{self._token()}.txt", content="one\r\ntwo\n")
        elif draw < 0.65:
            turn = run_bash(self._bash(sleep_s))
        else:
            turn = run_python(self._python(sleep_s))
        return {**turn, **({"sleep_ms": self._random.randint(1, 300)} if self._random.random() < 0.4 else {})}

    def _bash(self, sleep_s: float) -> str:
        token = self._token()
        lines = [f"export {MARK}={token}", f"echo {token} >>{LEDGER_FILE}"]
        draw = self._random.random()
        if draw < 0.1:
            lines.append("head -c 1000000 /dev/zero | tr '\\0' x")
        elif draw < 0.2:
            lines.append(f"env -u {MARK} nohup sleep 1 >/dev/null 2>&1 &")
        elif draw < 0.3:
            lines.append("printf 'one\\r\\ntwo\\r\\n'")
        return "\n".join([*lines, f"sleep {sleep_s}", f"echo {token}.end >>{LEDGER_FILE}", f"echo; echo done {token}"])

    def _python(self, sleep_s: float) -> str:
        token = self._token()
        return "\n".join(
            [
                "import os, subprocess",
                "def note(line):",
                f"    with open({LEDGER_FILE!r}, 'a') as file:",
                "        print(line, file=file)",
                f"note({token!r})",
                f"_ = subprocess.run(['sleep', '{sleep_s}'], env={{**os.environ, {MARK!r}: {token!r}}}, check=True)",
                f"note('{token}.end')",
                f"print('done {token}')",
            ]
        )

    def _token(self) -> str:
        return f"tok-{self._lane:02x}{self._random.getrandbits(56):014x}"


def _checked(answer: httpx2.Response) -> httpx2.Response:
    if answer.status_code == 500:
        raise Violation("a crash fails no request", f"{answer.request.method} {answer.request.url}: {answer.text}")
    return answer


def _accepted(answer: httpx2.Response) -> Json:
    if answer.status_code != 200:
        said = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
        raise Violation("a crash fails no request", said)
    return _object(answer)


def _object(answer: httpx2.Response) -> Json:
    value = answer.json()
    assert isinstance(value, dict), value
    return value

"""Holds recorded conversations against the protocol, and searches them for secrets.

    judge.py FOLDER SECRETS [cancelled] [progress]

FOLDER is what `recorded` wrote, SECRETS the bundled server's answer about its secrets. A word
behind them is something that must have been seen. Each kind of check has its control: what must be
refused is, and what must be found is."""

import base64
import importlib.util
import json
import sys
import urllib.parse
from collections import Counter
from functools import cache, partial
from pathlib import Path

import jsonschema
from mcp_types import JSONRPCError
from mcp_types import methods as schema
from pydantic import ValidationError

MODERN = "io.modelcontextprotocol/protocolVersion"

OLDEST = "2025-06-18"


def types_of_the_oldest():
    """The types of the SDK whose own revision that was. One file of it, which needs none of the others."""
    path = Path(__file__).with_name(".mcp-2025-06-18") / "mcp/types.py"
    spec = importlib.util.spec_from_file_location("mcp_types_2025_06_18", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.LATEST_PROTOCOL_VERSION == OLDEST
    return {
        "initialize": module.InitializeResult,
        "tools/list": module.ListToolsResult,
        "tools/call": module.CallToolResult,
    }


oldest = types_of_the_oldest()
seen = Counter()


def messages(path):
    """What is in a file, a line each. Whatever is no whole line of JSON ends the check."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n"), f"{path}: the last line is half a line"
    return [json.loads(line) for line in data.splitlines()]


class Conversation:
    """One run of the shim."""

    def __init__(self, path):
        self.requests = {}
        self.tokens = {}
        self.cancelled = set()
        self.answered = set()
        self.handshake = None
        for message in messages(path.with_suffix(".in")):
            self.asked(message)
        for message in messages(path.with_suffix(".out")):
            self.said(message)

    def asked(self, message):
        params = message.get("params") or {}
        if "method" in message and "id" in message:
            assert message["id"] not in self.requests, f"the client used id {message['id']} twice"
            self.requests[message["id"]] = message
            token = (params.get("_meta") or {}).get("progressToken")
            if token is not None:
                self.tokens[token] = message["id"]
        elif message.get("method") == "notifications/cancelled":
            self.cancelled.add(params["requestId"])

    def said(self, message):
        assert message.get("jsonrpc") == "2.0", message
        if "method" not in message:
            self.answer(message)
        elif "id" in message:
            # MCP 2026-07-28 has no requests of the server at all.
            assert self.handshake, f"a request to a client of 2026-07-28: {message}"
            schema.parse_server_request(message["method"], self.handshake, message.get("params"))
            seen["requests of the server"] += 1
        else:
            self.notification(message)

    def notification(self, message):
        version = self.handshake or "2026-07-28"
        schema.parse_server_notification(message["method"], version, message.get("params"))
        if message["method"] == "notifications/progress":
            running = self.tokens[message["params"]["progressToken"]]
            assert running not in self.answered, "progress of a call that is over"
            seen["progress"] += 1

    def answer(self, message):
        request = self.requests.get(message["id"])
        if request is None:
            # The one way to answer what could not be read.
            assert message["id"] is None and "error" in message, message
            return
        assert message["id"] not in self.cancelled, f"an answer to a cancelled call: {message}"
        assert message["id"] not in self.answered, f"a second answer: {message}"
        self.answered.add(message["id"])
        if "error" in message:
            JSONRPCError.model_validate(message)
            seen["errors"] += 1
        else:
            self.result(request, message["result"])

    def result(self, request, result):
        method = request["method"]
        version = ((request.get("params") or {}).get("_meta") or {}).get(MODERN)
        if method == "initialize":
            self.handshake = version = result["protocolVersion"]
        version = version or self.handshake
        if method == "ping":
            # The library answers it in every revision, also in the one that has none.
            assert set(result) <= {"resultType"}, result
        else:
            validate(method, version, result)
            refuses_nothing_at_all(method, version)
        seen[f"{version} {method}"] += 1
        if method == "tools/list":
            listed = {tool["name"]: tool for tool in result["tools"]}
            assert len(listed) == len(result["tools"]), "a name is in the list twice"
            # In their order too: a client may keep the list, and its model's cache with it.
            assert not tools or list(tools.items()) == list(listed.items()), "two lists of tools"
            tools.update(listed)
        elif method == "tools/call" and result.get("resultType") != "input_required":
            calls.append((request["params"]["name"], result))


def validate(method, version, result):
    """Today's types, and for the oldest revision its own beside: today's are those of the next one."""
    schema.validate_server_result(method, version, result)
    if version == OLDEST:
        oldest[method].model_validate(result)


@cache
def refuses_nothing_at_all(method, version):
    """The control: an empty object is no result, or the schema's types are blind."""
    own = [oldest[method].model_validate] if version == OLDEST else []
    for check in [partial(schema.validate_server_result, method, version), *own]:
        try:
            check({})
        except ValidationError:
            continue
        raise AssertionError(f"{{}} passes as a result of {method} {version}")


@cache
def schema_of(name):
    """What checks an answer of a tool. It refuses what no tool of ours answers, or it is blind."""
    validator = jsonschema.Draft202012Validator(tools[name]["outputSchema"])
    assert not validator.is_valid({"nothing": "of ours"}), name
    return validator


def envelope(name, result):
    """The structured part is what the tool's schema says, refusals too, and the text is the same."""
    structured = result["structuredContent"]
    schema_of(name).validate(structured)
    assert [json.loads(part["text"]) for part in result["content"]] == [structured], name
    assert ("error" in structured) == bool(result.get("isError")), name


def forms(secret):
    """A secret as it is, and in the shapes in which it could stand in a line of JSON."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield urllib.parse.quote(secret, safe="").encode()
    yield raw.hex().encode()
    # In Base64 as a part of something longer: wherever it begins, without what its neighbours decide.
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + raw)[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]


def found(secrets, data):
    """Those that are in it, each on its own."""
    return [record for record in secrets if any(form in data for form in forms(record["value"]))]


def kinds_of(secrets):
    return sorted({record["kind"] for record in secrets})


tools = {}
calls = []
folder, secrets_path, *wanted = sys.argv[1:]
runs = sorted(Path(folder).glob("*.in"))
for run in runs:
    Conversation(run)
assert tools or not calls, "no list of tools was seen, so no answer can be checked"
for call in calls:
    envelope(*call)
for word in wanted:
    if word == "cancelled":
        assert any(b"notifications/cancelled" in run.read_bytes() for run in runs), "no call was cancelled"
    else:
        assert seen[word], f"no {word} was seen"

journal = Path(secrets_path).read_bytes()
secrets = json.loads(journal)["secrets"]
kinds = kinds_of(secrets)
record = b"".join(path.read_bytes() for path in sorted(Path(folder).iterdir()))
assert not found(secrets, record), f"in the record: {kinds_of(found(secrets, record))}"
# The control: the same search finds each of them where it is, material among them.
assert "access_token" in kinds and found(secrets, journal) == secrets, "the search is blind"

counts = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
print(f"ok  {len(runs)} runs of the shim, every line a message of its revision: {counts}")
print(f"ok  {len(calls)} answers of tools, every one as its schema says")
print(f"ok  0 of {len(secrets)} secrets in {len(record)} bytes ({', '.join(kinds)})")

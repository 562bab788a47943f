"""The official Python SDK, `mcp`: what a host does with us, in one mode of negotiation.

    python.py MODE SERVER…"""

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request

import mcp
import mcp.client.session
from mcp_types import ElicitResult

TOOLS = "audit_list http_request lease_create lease_list lease_revoke login logout policy_explain status target_list".split()
SELECTOR = "gcp/billing-prod/deploy-bot"

mode, *command = sys.argv[1:]
legacy = mode in ("legacy", "2025-06-18")
revision = {"legacy": "2025-11-25", "auto": "2026-07-28"}.get(mode, mode)
if mode == "2025-06-18":
    # The SDK asks for the newest revision that has a handshake; its predecessors asked for theirs.
    mcp.client.session.LATEST_HANDSHAKE_VERSION = mode


def check(what, holds):
    assert holds, f"{mode}: {what}"
    print(f"ok  python {mode}: {what}", flush=True)


def control(path, **body):
    """Tells the bundled server something, as its person would."""
    request = urllib.request.Request(
        f"{os.environ['control']}_ctl/{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {os.environ['control_token']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def approve(user_code):
    control("approve", userCode=user_code)


def broker(*arguments):
    """A program of the same person, on the other door."""
    return subprocess.run([os.environ["BROKER"], *arguments], capture_output=True, timeout=30, check=False)


def client(**options):
    return mcp.Client(mcp.StdioServerParameters(command=command[0], args=command[1:]), mode="legacy" if legacy else mode, **options)


async def call(to, tool, **arguments):
    """The answer in the envelope: (result, None) or (None, error)."""
    answer = await to.call_tool(tool, arguments)
    assert answer.is_error == ("error" in answer.structured_content), answer
    return answer.structured_content.get("result"), answer.structured_content.get("error")


class Dialog:
    """What the host shows its person, and what they do with it."""

    def __init__(self, answer, approves=False):
        self.answer, self.approves = answer, approves
        self.shown = asyncio.Event()

    async def __call__(self, _context, params):
        self.url, self.message = params.url, params.message
        assert params.mode == "url", params
        if self.approves:
            await asyncio.to_thread(approve, self.code())
        self.shown.set()
        return ElicitResult(action=self.answer)

    def code(self):
        return re.search(r"\b[A-Z0-9]{4}-[A-Z0-9]{4}\b", self.message)[0]


async def signed_out():
    async with client() as to:
        check("the revision is as negotiated", to.protocol_version == revision)
        listed = (await to.list_tools()).tools
        check("tools/list: ten, sorted", [tool.name for tool in listed] == TOOLS)
        result, _ = await call(to, "status")
        check("status: logged out", result["login"]["state"] == "logged_out")
        _, error = await call(to, "lease_create", selector=SELECTOR)
        check("a lease without a login: a refusal as a result", error["code"] == "login_required")
        _, error = await call(to, "lease_create", selector="gcp/*/deploy-bot")
        check("a pattern is no selector", error["code"] == "selector_invalid")
        _, error = await call(to, "lease_create", selector=SELECTOR, token="x")
        check("an argument too many: a refusal as a result", error["code"] == "invalid_request")
        try:
            await to.call_tool("no_such_tool", {})
            code = None
        except mcp.MCPError as no:
            code = no.error.code
        check("an unknown tool: an error of the protocol", code == -32602)
        result, _ = await call(to, "login")
        check("login without a dialog: address and code in words", result["status"] == "pending"
              and result["device"]["user_code"] in result["next"]
              and result["device"]["verification_uri"] in result["next"])
    broker("login", "--cancel")


async def declined():
    dialog = Dialog("decline")
    async with client(elicitation_callback=dialog) as to:
        result, error = await call(to, "login")
        if legacy:
            # The call does not wait for the dialog.
            check("login answers beside the dialog", result["status"] == "pending")
        else:
            check("declined: cancelled, and not to be tried again",
                  error["code"] == "login_cancelled" and error["do_not_retry"])
        await asyncio.wait_for(dialog.shown.wait(), 10)
        check("the dialog has the address and the code", dialog.url.startswith("http://127.0.0.1:")
              and dialog.code() in dialog.message)
        result, _ = await call(to, "status")
        check("declined: nobody is logged in", result["login"]["state"] != "logged_in")
    broker("login", "--cancel")


async def accepted():
    dialog = Dialog("accept", approves=legacy)
    said = []

    async def progress(value, total, message):
        said.append(value)
        assert value < total and message, (value, total, message)
        if len(said) == 1:
            await asyncio.to_thread(approve, dialog.code())

    async with client(elicitation_callback=dialog) as to:
        if legacy:
            result, _ = await call(to, "login")
            await asyncio.wait_for(dialog.shown.wait(), 10)
            # The person's terminal joins the login and sees its end.
            check("approved in the dialog: logged in", broker("login").returncode == 0)
            result, _ = await call(to, "login")
            check("login says so", result["status"] == "already_signed_in")
        else:
            # The person approves only once the call says that it waits for them.
            answer = await to.call_tool("login", {}, progress_callback=progress)
            check("the dialog was shown, the call waited and said so", dialog.shown.is_set() and said)
            result = answer.structured_content["result"]
            check("approved: signed in", result["status"] == "signed_in" and result["principal"])


async def leases():
    async with client() as to:
        result, _ = await call(to, "target_list")
        check("target_list has the catalogue", SELECTOR in [target["selector"] for target in result["targets"]])
        result, _ = await call(to, "policy_explain", selector=SELECTOR)
        check("policy_explain names the rule", {step["rule"] for step in result["steps"]} == {"mock"})

        result, _ = await call(to, "lease_create", selector=SELECTOR, ttl_s=120, max_redemptions=2, reason="interop")
        lease = result["lease"]["lease_id"]
        check("lease_create: an active lease", result["lease"]["state"] == "active")
        material = await asyncio.to_thread(broker, "lease", "redeem", lease)
        check("a program redeems it", material.returncode == 0 and material.stdout)
        result, _ = await call(to, "lease_list")
        check("lease_list: redeemed once", [(it["lease_id"], it["redemptions_used"]) for it in result["leases"]][:1] == [(lease, 1)])
        result, _ = await call(to, "lease_revoke", lease_id=lease)
        check("lease_revoke: revoked", result["lease"]["state"] == "revoked")
        material = await asyncio.to_thread(broker, "lease", "redeem", lease)
        check("nobody redeems it any more", material.returncode != 0 and not material.stdout)
        _, error = await call(to, "lease_revoke", lease_id="lease_unknown")
        check("an unknown lease: a refusal as a result", error["code"] == "lease_not_found")
        result, _ = await call(to, "audit_list")
        check("audit_list has the lease", lease in [it.get("lease_id") for it in result["decisions"]])

        # The issuer holds its answer back for ever; the host gives up.
        control("fault", method="CreateCredentialLease", kind="stall")
        try:
            await to.call_tool("lease_create", {"selector": "generic/demo-db/reader"}, read_timeout_seconds=1)
            given_up = False
        except mcp.MCPError:
            given_up = True
        result, _ = await call(to, "status")
        check("a call that is given up leaves the others served", given_up and result["login"]["state"] == "logged_in")
        await call(to, "logout")
        result, _ = await call(to, "status")
        check("logout: logged out", result["login"]["state"] == "logged_out")


async def main():
    await signed_out()
    await declined()
    await accepted()
    await leases()


asyncio.run(main())

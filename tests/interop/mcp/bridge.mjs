// The shim over HTTP, for a client that speaks nothing else: passes JSON-RPC through unchanged.
//
//   node bridge.mjs SERVER…        its first line of output is the URL
//
// POST /mcp: an `initialize` of the earlier revisions starts a shim and names a session; a request
// of that session goes to its shim; any other request gets a shim of its own, as 2026-07-28 knows
// no sessions. What the server says before its answer is sent as server-sent events.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

const [command, ...args] = process.argv.slice(2);
const sessions = new Map();

const isModern = (message) => message.params?._meta?.['io.modelcontextprotocol/protocolVersion'] !== undefined;

// The status that 2026-07-28 wants for an error; before it, errors are answers like others.
function statusOf({ error }, session) {
  if (session || !error) return 200;
  if (error.code === -32601) return 404;
  return error.code === -32602 || (error.code <= -32020 && error.code >= -32099) ? 400 : 200;
}

class Shim {
  constructor() {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.waiting = new Map(); // JSON-RPC id -> what to do with lines for that request
    createInterface({ input: this.child.stdout }).on('line', (line) => this.pass(JSON.parse(line)));
    this.child.on('exit', () => this.waiting.forEach(({ fail }) => fail()));
  }

  pass(message) {
    if (message.method === undefined) {
      this.waiting.get(JSON.stringify(message.id))?.answer(message);
      this.waiting.delete(JSON.stringify(message.id));
      return;
    }
    // A progress token says whose it is; the rest belongs to the newest.
    const all = [...this.waiting.values()];
    const token = message.params?.progressToken;
    (all.find((one) => token !== undefined && one.token === token) ?? all.at(-1))?.say(message);
  }

  send(message) {
    this.child.stdin.write(`${JSON.stringify(message)}\n`);
  }

  ask(message, say) {
    return new Promise((answer, fail) => {
      this.waiting.set(JSON.stringify(message.id), { token: message.params?._meta?.progressToken, answer, say, fail });
      this.send(message);
    });
  }

  close() {
    this.child.stdin.end();
  }
}

async function post(request, response, message) {
  const known = request.headers['mcp-session-id'];
  if (known !== undefined && !sessions.has(known)) return end(response, 404);
  if (message.id === undefined || message.method === undefined) {
    sessions.get(known)?.send(message);
    return end(response, 202);
  }
  const begins = message.method === 'initialize' && !isModern(message);
  const shim = sessions.get(known) ?? new Shim();
  let streaming = false;
  const say = (event) => {
    if (!streaming) response.writeHead(200, { 'content-type': 'text/event-stream' });
    streaming = true;
    response.write(`event: message\ndata: ${JSON.stringify(event)}\n\n`);
  };
  const answer = await shim.ask(message, say);
  if (begins && answer.result) {
    const name = randomUUID();
    sessions.set(name, shim);
    response.setHeader('mcp-session-id', name);
  } else if (known === undefined) {
    shim.close();
  }
  if (streaming) {
    say(answer);
    response.end();
  } else {
    response.writeHead(statusOf(answer, known ?? begins), { 'content-type': 'application/json' });
    response.end(JSON.stringify(answer));
  }
}

function end(response, status) {
  response.writeHead(status).end();
}

function isFromHere({ headers }) {
  const host = (text) => /^(https?:\/\/)?(127\.0\.0\.1|localhost|\[::1\])(:\d+)?$/.test(text);
  return host(headers.host ?? '') && (headers.origin === undefined || host(headers.origin));
}

async function serve(request, response) {
  if (!isFromHere(request)) return end(response, 403);
  if (request.url !== '/mcp') return end(response, 404);
  if (request.method === 'DELETE') {
    const name = request.headers['mcp-session-id'];
    sessions.get(name)?.close();
    return end(response, sessions.delete(name) ? 200 : 404);
  }
  if (request.method !== 'POST') return end(response, 405);
  const body = (await request.toArray()).join('');
  try {
    await post(request, response, JSON.parse(body));
  } catch {
    end(response, 400);
  }
}

const server = createServer(serve).listen(0, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}/mcp`);
});

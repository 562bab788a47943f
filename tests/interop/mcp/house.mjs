// What the scripts for Node share: a line per check, the bundled server's control, and a program
// of the same person on the other door.
import { spawnSync } from 'node:child_process';

export const SELECTOR = 'gcp/billing-prod/deploy-bot';
export const TOOLS = 'audit_list http_request lease_create lease_list lease_revoke login logout policy_explain status target_list'.split(' ');

export const checks = (name) => (what, holds) => {
  if (!holds) throw new Error(`${name}: ${what}`);
  console.log(`ok  ${name}: ${what}`);
};

export async function control(path, body) {
  const answer = await fetch(`${process.env.control}_ctl/${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${process.env.control_token}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

export const approve = (userCode) => control('approve', { userCode });

export const broker = (...args) => spawnSync(process.env.BROKER, args, { timeout: 30_000 });

export const codeIn = (message) => /\b[A-Z0-9]{4}-[A-Z0-9]{4}\b/.exec(message)[0];

// One that is settled from outside, and never later than in ten seconds.
export function event() {
  const { promise, resolve, reject } = Promise.withResolvers();
  const late = setTimeout(() => reject(new Error('nothing came')), 10_000);
  return { happened: promise.finally(() => clearTimeout(late)), happens: resolve };
}

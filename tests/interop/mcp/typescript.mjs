// What a host written in TypeScript does with us, whichever generation of the SDK it uses.
//
//   connect(options) -> a client; options: elicit, the handler of a dialog
//   era: 'legacy' or 'modern', what was negotiated
import { approve, broker, checks, codeIn, control, event, SELECTOR, TOOLS } from './house.mjs';

export async function host(name, era, connect) {
  const check = checks(name);
  // The answer in the envelope; the SDK holds it against the output schema of the list.
  const call = async (client, tool, args = {}, options = undefined) => {
    const { structuredContent, isError } = await client.callTool({ name: tool, arguments: args }, options);
    if (('error' in structuredContent) !== (isError === true)) throw new Error(`${tool}: isError`);
    return structuredContent;
  };
  const withClient = async (options, body) => {
    const client = await connect(options);
    try {
      const { tools } = await client.listTools();
      check('tools/list: ten, sorted', tools.map((tool) => tool.name).join() === TOOLS.join());
      await body(client);
    } finally {
      await client.close();
    }
  };

  await withClient({}, async (client) => {
    check('status: logged out', (await call(client, 'status')).result.login.state === 'logged_out');
    const refusal = (await call(client, 'lease_create', { selector: SELECTOR })).error;
    check('a lease without a login: a refusal as a result', refusal.code === 'login_required');
    const wrong = (await call(client, 'lease_create', { selector: SELECTOR, token: 'x' })).error;
    check('an argument too many: a refusal as a result', wrong.code === 'invalid_request');
    const unknown = await client.callTool({ name: 'no_such_tool', arguments: {} }).catch((error) => error);
    check('an unknown tool: an error of the protocol', unknown.code === -32602);
    const login = (await call(client, 'login')).result;
    check('login without a dialog: address and code in words', login.status === 'pending' &&
      login.next.includes(login.device.user_code) && login.next.includes(login.device.verification_uri));
  });
  broker('login', '--cancel');

  const dialog = event();
  await withClient({ elicit: ({ params }) => { dialog.happens(params); return { action: 'decline' }; } }, async (client) => {
    const answer = await call(client, 'login');
    const shown = await dialog.happened;
    check('the dialog has the address and the code', shown.mode === 'url' &&
      shown.url.startsWith('http://127.0.0.1:') && codeIn(shown.message));
    if (era === 'modern') check('declined: cancelled, and not to be tried again', answer.error.code === 'login_cancelled' && answer.error.do_not_retry);
    else check('login answers beside the dialog', answer.result.status === 'pending');
    check('declined: nobody is logged in', (await call(client, 'status')).result.login.state !== 'logged_in');
  });
  broker('login', '--cancel');

  let code;
  const accepted = event();
  const elicit = async ({ params }) => {
    code = codeIn(params.message);
    if (era === 'legacy') await approve(code);
    accepted.happens();
    return { action: 'accept' };
  };
  await withClient({ elicit }, async (client) => {
    if (era === 'legacy') {
      await call(client, 'login');
      await accepted.happened;
      // The person's terminal joins the login and sees its end.
      check('approved in the dialog: logged in', broker('login').status === 0);
      check('login says so', (await call(client, 'login')).result.status === 'already_signed_in');
      return;
    }
    // The person approves only once the call says that it waits for them. The SDK also counts its
    // own rounds as progress, without a word.
    const said = [];
    const onprogress = ({ message }) => { if (message?.startsWith('waiting') && said.push(message) === 1) approve(code); };
    const { result } = await call(client, 'login', {}, { onprogress });
    check('the call waited and said so', said.length > 0);
    check('approved: signed in', result.status === 'signed_in' && result.principal);
  });

  await withClient({}, async (client) => {
    const { targets } = (await call(client, 'target_list')).result;
    check('target_list has the catalogue', targets.some(({ selector }) => selector === SELECTOR));
    const { steps } = (await call(client, 'policy_explain', { selector: SELECTOR })).result;
    check('policy_explain names the rule', steps.length > 0 && steps.every(({ rule }) => rule === 'mock'));
    const { lease } = (await call(client, 'lease_create', { selector: SELECTOR, ttl_s: 120, max_redemptions: 2 })).result;
    check('lease_create: an active lease', lease.state === 'active');
    check('a program redeems it', broker('lease', 'redeem', lease.lease_id).stdout.length > 0);
    const listed = (await call(client, 'lease_list')).result.leases[0];
    check('lease_list: redeemed once', listed.lease_id === lease.lease_id && listed.redemptions_used === 1);
    check('lease_revoke: revoked', (await call(client, 'lease_revoke', { lease_id: lease.lease_id })).result.lease.state === 'revoked');
    check('nobody redeems it any more', broker('lease', 'redeem', lease.lease_id).status !== 0);
    const unknown = (await call(client, 'lease_revoke', { lease_id: 'lease_unknown' })).error;
    check('an unknown lease: a refusal as a result', unknown.code === 'lease_not_found');

    const { decisions } = (await call(client, 'audit_list')).result;
    check('audit_list has the lease', decisions.some(({ lease_id }) => lease_id === lease.lease_id));

    // The issuer holds its answer back for ever; the host gives up.
    await control('fault', { method: 'CreateCredentialLease', kind: 'stall' });
    const given_up = await client
      .callTool({ name: 'lease_create', arguments: { selector: 'generic/demo-db/reader' } }, { signal: AbortSignal.timeout(1000) })
      .catch((error) => error);
    check('a call that is given up is an error', given_up instanceof Error);
    check('and leaves the others served', (await call(client, 'status')).result.login.state === 'logged_in');
    await call(client, 'logout');
    check('logout: logged out', (await call(client, 'status')).result.login.state === 'logged_out');
  });
}

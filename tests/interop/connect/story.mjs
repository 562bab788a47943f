// What every client does: a login, a lease from its making to its end, every other call there is,
// and refusals on the way.
// The proofs are those of the package dpop, which knows nothing of this server.
//
// `call(method, message, headers)` is the client: it resolves to `{ message, headers }`, the message
// as proto3 JSON, or rejects with a `Refused`.
import * as DPoP from 'dpop';
import { checks, control } from '../mcp/house.mjs';
import { request as certificateRequest } from './svid.mjs';

export const PACKAGE = 'aegis.v1';
export const service = (method) =>
  `${PACKAGE}.${method.includes('Oauth') ? 'IdentityGatewayService' : 'BrokerService'}`;
export const API = process.env.api.replace(/\/$/, '');

// A refusal: the code in Connect's words, the `aegis.v1.ErrorInfo` as the client decoded it, and
// the headers.
export class Refused extends Error {
  constructor(code, info, headers) {
    super(`${code} ${JSON.stringify(info)}`);
    Object.assign(this, { code, info, headers });
  }
}

const TENANT = 'business-default';
const TARGET = { provider: 'gcp', app: 'billing-prod', account: 'deploy-bot' };
const [CREATE, REDEEM, REVOKE] = ['Create', 'Redeem', 'Revoke'].map((verb) => `${verb}CredentialLease`);
const [BEGIN, EXCHANGE] = ['Begin', 'Exchange'].map((verb) => `${verb}McpOauthDeviceAuthorization`);
const scope = (action, { provider, app, account }) =>
  `credential.lease.${action}:provider:${provider}:app:${app}:account:${account}`;

export async function story(name, call) {
  const check = checks(name);
  const same = (what, found, wanted) =>
    check(`${what}: ${wanted}`, found === wanted || console.error(`found ${found}`));

  const key = await DPoP.generateKeyPair('ES256');
  const thumbprint = await DPoP.calculateThumbprint(key.publicKey);
  const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', key.publicKey);
  const state = { nonce: undefined, token: undefined };
  const url = (method) => `${API}/${service(method)}/${method}`;
  const prove = (method, by = key) => DPoP.generateProof(by, url(method), 'POST', state.nonce, state.token);
  const bearer = (token) => (token ? { authorization: `Bearer ${token}` } : {});

  // A call with this proof, or a new one, in the message.
  async function proven(method, message, proof, headers = bearer(state.token)) {
    const requestProof = { proofType: 'dpop_jwt', dpopJwt: proof ?? (await prove(method)) };
    const answer = await call(method, { ...message, requestProof }, headers);
    state.nonce = answer.headers.get('dpop-nonce') ?? state.nonce;
    check(`${method} has an id`, /^req_[0-9a-z]{26}$/.test(answer.headers.get('x-request-id')));
    return answer.message;
  }

  // That refusal, told with its reason and the id of the request.
  async function refused(what, code, reason, calling) {
    const told = await calling.then(
      (answer) => { throw new Error(`${what}: no refusal, but ${JSON.stringify(answer)}`); },
      (error) => { if (error instanceof Refused) return error; throw error; },
    );
    same(`${what}, code`, told.code, code);
    same(`${what}, reason`, told.info.reason, reason);
    same(`${what}, id`, told.info.requestId, told.headers.get('x-request-id'));
    return told;
  }

  const begin = (more) => call(BEGIN, {
    tenantId: TENANT,
    requestedScopes: ['create', 'redeem', 'revoke'].map((action) => scope(action, TARGET)),
    popKeyId: `pop-${thumbprint}`,
    clientDisplayName: name,
    popJwk: { kty, crv, x, y },
    ...more,
  }, {});
  await refused('a wildcard', 'invalid_argument', 'scope_wildcard',
    begin({ requestedScopes: [scope('create', { ...TARGET, account: '*' })] }));
  const far = await refused('a long life', 'invalid_argument', 'ttl_out_of_range',
    begin({ requestedTtlSeconds: 901 }));
  same('the field', far.info.field, 'requested_ttl_seconds');

  const codes = (await begin()).message;
  check('a user code', /^[B-Z]{4}-[B-Z]{4}$/.test(codes.userCode));
  same('the interval', codes.intervalSeconds, 5);
  const device = { deviceCode: codes.deviceCode, popKeyId: `pop-${thumbprint}` };
  same('asked at once', (await proven(EXCHANGE, device)).status, 'slow_down');
  await control('approve', { userCode: codes.userCode });
  const login = await proven(EXCHANGE, device);
  same('approved', login.status, 'success');
  same('the key', login.tokenInfo.thumbprint, thumbprint);
  same('the person', login.tokenInfo.principal, 'user:u-demo');
  check('the scopes', login.tokenInfo.grantedScopes.length === 3);
  check('the end', Math.abs(Date.parse(login.tokenInfo.expiresAt) - Date.now() - 600_000) < 60_000);
  await refused('the code again', 'failed_precondition', 'device_code_used', proven(EXCHANGE, device));

  const wish = { tenantId: TENANT, target: TARGET, requestedTtlSeconds: 300, maxRedemptions: 2 };
  await refused('no token', 'unauthenticated', 'token_missing', proven(CREATE, wish));
  state.token = login.brokerToken;
  const nonce = state.nonce;
  state.nonce = undefined;
  const asked = await refused('no nonce', 'unauthenticated', 'use_dpop_nonce', proven(CREATE, wish));
  check('asked for a nonce', asked.headers.get('dpop-nonce') && asked.headers.get('www-authenticate').includes('use_dpop_nonce'));
  state.nonce = nonce;

  const proof = await prove(CREATE);
  const { lease } = await proven(CREATE, wish, proof);
  same('a lease', lease.state, 'active');
  await refused('the proof again', 'unauthenticated', 'proof_replayed', proven(CREATE, wish, proof));
  await refused('for another call', 'unauthenticated', 'proof_invalid',
    proven(CREATE, wish, await prove(REDEEM)));
  const other = await DPoP.generateKeyPair('ES256');
  await refused('by another key', 'unauthenticated', 'binding_mismatch',
    proven(CREATE, wish, await prove(CREATE, other)));
  await refused('another target', 'permission_denied', 'scope_not_granted',
    proven(CREATE, { ...wish, target: { ...TARGET, account: 'owner' } }));
  await refused('another tenant', 'permission_denied', 'tenant_mismatch',
    proven(CREATE, { ...wish, tenantId: 'other' }));

  // The other carrier of RFC 9449: in headers.
  const headers = { authorization: `DPoP ${state.token}`, dpop: await prove(CREATE) };
  const carried = await call(CREATE, wish, headers);
  same('proven in a header', carried.message.lease.state, 'active');

  const named = { tenantId: TENANT, leaseId: lease.leaseId };
  const { credential } = await proven(REDEEM, named);
  same('the kind', credential.kind, 'gcp_access_token');
  const material = credential.gcpAccessToken.accessToken;
  const whoami = () => fetch(`${API}/fake/gcp/whoami`, { headers: { authorization: `Bearer ${material}` } });
  same('at the provider', (await whoami()).status, 200);
  same('the last one', (await proven(REDEEM, named)).lease.state, 'exhausted');
  await refused('one too many', 'failed_precondition', 'lease_exhausted', proven(REDEEM, named));
  await refused('an unknown lease', 'not_found', 'lease_not_found',
    proven(REDEEM, { ...named, leaseId: `lse_${'0'.repeat(26)}` }));

  for (const [kind, code, reason, wait] of [
    ['rate_limited', 'resource_exhausted', 'rate_limited', 1],
    ['audit_unavailable', 'unavailable', 'audit_unavailable', undefined],
  ]) {
    await control('fault', { method: CREATE, kind });
    const told = await refused(kind, code, reason, proven(CREATE, wish));
    same(`${kind}, to wait`, told.info.retryAfterSeconds, wait);
    same(`${kind}, Retry-After`, told.headers.get('retry-after') ?? undefined, wait?.toString());
  }

  const ended = { ...named, reason: 'released' };
  same('revoked', (await proven(REVOKE, ended)).lease.state, 'revoked');
  same('revoked before', (await proven(REVOKE, ended)).alreadyTerminal, true);
  await refused('redeemed after', 'failed_precondition', 'lease_revoked', proven(REDEEM, named));
  same('at the provider, after', (await whoami()).status, 401);

  // What became of all that, and the end of the token that did it.
  const listing = { tenantId: TENANT, leaseId: lease.leaseId, pageSize: 2 };
  const first = await proven('ListBrokerAuditEvents', listing);
  same('a page', first.events.length, 2);
  same('its first event', first.events[0].action, 'lease.create');
  same('its outcome', first.events[0].outcome, 'ok');
  const second = await proven('ListBrokerAuditEvents', { ...listing, pageToken: first.nextPageToken });
  same('the chain', BigInt(second.events[0].seq) > BigInt(first.events[1].seq), true);
  await refused('another listing', 'invalid_argument', 'page_token_invalid',
    proven('ListBrokerAuditEvents', { tenantId: TENANT, pageToken: first.nextPageToken }));
  const end = { tenantId: TENANT, target: 'session', reason: 'logout' };
  const over = await proven('RevokeBrokerAccess', end);
  same('the tokens that ended', over.tokens, 1);
  await refused('afterwards', 'unauthenticated', 'session_ended', proven(CREATE, wish));

  // A person approves over the wire, and mints with the same ID token, with a key of their own.
  const { token: idToken } = await control('id-token', {});
  const fresh = await DPoP.generateKeyPair('ES256');
  const popKeyId = `pop-${await DPoP.calculateThumbprint(fresh.publicKey)}`;
  const { kty: t, crv: c, x: a, y: o } = await crypto.subtle.exportKey('jwk', fresh.publicKey);
  const own = { popKeyId, popJwk: { kty: t, crv: c, x: a, y: o } };
  const again = (await begin(own)).message;
  const approval = { userCode: again.userCode, approve: true };
  const approved = await call('ApproveMcpOauthDeviceAuthorization', approval, bearer(idToken));
  same('approved by its person', approved.message.status, 'approved');
  state.token = undefined;
  const scopes = [scope('create', TARGET)];
  const bound = async (method, message, headers) =>
    proven(method, { tenantId: TENANT, ...own, ...message }, await prove(method, fresh), headers);
  const minted = await bound('MintUserApiToken', { requestedScopes: scopes }, bearer(idToken));
  same('minted for', minted.tokenInfo.principal, 'user:u-demo');
  await refused('minted for everything', 'invalid_argument', 'scope_wildcard',
    bound('MintUserApiToken', { requestedScopes: ['*'] }, bearer(idToken)));

  // A workload, up to its certificate.
  const { token: workloadToken } = await control('workload-token', {});
  const exchange = (more) => bound('ExchangeWorkloadToken', {
    mode: 'oidc', workloadToken, nonce: crypto.randomUUID().replaceAll('-', ''),
    requestedScopes: ['spiffe.bootstrap'], ...more,
  });
  await refused('a token of nobody', 'unauthenticated', 'workload_token_invalid',
    exchange({ workloadToken: `${workloadToken.slice(0, -4)}AAAA` }));
  const exchanged = await exchange();
  same('the workload', exchanged.tokenInfo.principal, 'mcp:desktop-broker:build-01');
  await refused('its token again', 'unauthenticated', 'workload_token_replayed', exchange());
  state.token = exchanged.brokerToken;
  const bootstrap = async (method, message) =>
    proven(method, { tenantId: TENANT, ...message }, await prove(method, fresh));
  const challenge = await bootstrap('BeginSpiffeBootstrap', { workloadName: 'host-01' });
  check('a SPIFFE ID', challenge.spiffeId.endsWith('/tenant/business-default/mcp/desktop-broker/host-01'));
  const response = {
    challengeId: challenge.challengeId, challengeToken: challenge.challengeToken,
    csrDer: certificateRequest(`story-${name.replaceAll(' ', '-')}`).toString('base64'),
  };
  const made = await bootstrap('CompleteSpiffeBootstrap', response);
  same('a certificate', made.svidChain.length, 1);
  await refused('the challenge again', 'failed_precondition', 'challenge_used',
    bootstrap('CompleteSpiffeBootstrap', response));
  const denied = await prove(CREATE, fresh);
  await refused('a lease with that token', 'permission_denied', 'scope_not_granted',
    proven(CREATE, wish, denied));
}

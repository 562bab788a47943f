// A workload's SVID from its request to its use, judged by OpenSSL and used by curl.
import * as DPoP from 'dpop';
import { writeFileSync } from 'node:fs';
import { checks, control } from '../mcp/house.mjs';
import { openssl, place, request, run } from './svid.mjs';

const check = checks('openssl');
const API = process.env.api.replace(/\/$/, '');
const TENANT = 'business-default';
const ID = 'spiffe://aegis.example/tenant/business-default/mcp/desktop-broker/host-01';
const key = await DPoP.generateKeyPair('ES256');
const popKeyId = `pop-${await DPoP.calculateThumbprint(key.publicKey)}`;
const { kty, crv, x, y } = await crypto.subtle.exportKey('jwk', key.publicKey);
const random = () => crypto.randomUUID().replaceAll('-', '');
let nonce;

async function call(method, message, token) {
  const url = `${API}/aegis.v1.BrokerService/${method}`;
  const dpopJwt = await DPoP.generateProof(key, url, 'POST', nonce, token);
  const answer = await fetch(url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json', 'connect-protocol-version': '1',
      ...(token && { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify({ tenantId: TENANT, ...message, requestProof: { proofType: 'dpop_jwt', dpopJwt } }),
    signal: AbortSignal.timeout(10_000),
  });
  nonce = answer.headers.get('dpop-nonce') ?? nonce;
  return { status: answer.status, body: await answer.json() };
}

const { token: workloadToken } = await control('workload-token', {});
const exchanged = await call('ExchangeWorkloadToken', {
  mode: 'oidc', workloadToken, nonce: random(), requestedScopes: ['spiffe.bootstrap'],
  popKeyId, popJwk: { kty, crv, x, y },
});
check('a bootstrap token', exchanged.status === 200);
const token = exchanged.body.brokerToken;

async function complete(csr) {
  const { body } = await call('BeginSpiffeBootstrap', { workloadName: 'host-01' }, token);
  check('the id that was asked for', body.spiffeId === ID);
  return call('CompleteSpiffeBootstrap', {
    challengeId: body.challengeId, challengeToken: body.challengeToken, csrDer: csr.toString('base64'),
  }, token);
}

const pem = (der) => `-----BEGIN CERTIFICATE-----\n${der.match(/.{1,64}/g).join('\n')}\n-----END CERTIFICATE-----\n`;
const fingerprints = {};
for (const curve of ['P-256', 'P-384']) {
  const csr = request(curve, curve);
  check(`${curve}: OpenSSL takes the request`, /verify OK/.test(openssl('req', '-verify', '-noout', '-inform', 'DER', '-in', place(`${curve}.csr`))));
  const { status, body } = await complete(csr);
  check(`${curve}: signed`, status === 200);
  const [leaf, bundle] = [place(`${curve}.pem`), place('bundle.pem')];
  writeFileSync(leaf, pem(body.svidChain[0]));
  writeFileSync(bundle, pem(body.trustBundle[0]));
  for (const purpose of ['sslclient', 'sslserver']) {
    const judged = run('openssl', 'verify', '-x509_strict', '-purpose', purpose, '-CAfile', bundle, leaf);
    check(`${curve}: verified for ${purpose}`, judged.done || console.error(judged.text));
  }
  const shown = openssl('x509', '-noout', '-text', '-in', leaf);
  const says = (what, pattern) => check(`${curve}: ${what}`, pattern.test(shown) || console.error(shown));
  says('no subject', /Subject: *\n/);
  says('one critical URI', new RegExp(`Subject Alternative Name: critical\\s+URI:${ID}\\n`));
  says('no authority', /Basic Constraints: critical\s+CA:FALSE\n/);
  says('it signs and no more', /Key Usage: critical\s+Digital Signature\n/);
  says('server and client', /Extended Key Usage: *\s+TLS Web Server Authentication, TLS Web Client Authentication\n/);
  const shortly = run('openssl', 'x509', '-checkend', '0', '-noout', '-in', leaf);
  const later = run('openssl', 'x509', '-checkend', '3600', '-noout', '-in', leaf);
  check(`${curve}: an hour at most`, shortly.done && !later.done);
  const keys = [['x509', '-in', leaf], ['req', '-inform', 'DER', '-in', place(`${curve}.csr`)]];
  const [ours, theirs] = keys.map((args) => openssl(...args, '-pubkey', '-noout'));
  check(`${curve}: the request's key`, ours === theirs);
  const hex = /=([0-9A-F:]+)/.exec(openssl('x509', '-fingerprint', '-sha256', '-noout', '-in', leaf))[1];
  const fingerprint = Buffer.from(hex.replaceAll(':', ''), 'hex').toString('base64url');
  check(`${curve}: the fingerprint`, fingerprint === body.mtlsFingerprint);
  fingerprints[curve] = fingerprint;
}

for (const [what, ...more] of [
  ['another name', '-addext', 'subjectAltName=DNS:evil.example'],
  ['another URI', '-addext', 'subjectAltName=URI:spiffe://aegis.example/tenant/other'],
  ['an authority', '-addext', 'basicConstraints=critical,CA:TRUE'],
]) {
  const { status, body } = await complete(request('bad', 'P-256', ...more));
  check(`${what} is refused`, status === 400 && body.details[0].debug.reason === 'csr_invalid');
}
const weak = await complete(request('weak', 'P-224'));
check('a weak curve is refused', weak.status === 400 && weak.body.details[0].debug.reason === 'csr_invalid');

// The certificate in use: curl makes the connection, and the call is the reference flow's next.
const ca = await fetch(`${process.env.control}_ctl/tls-ca`, {
  headers: { authorization: `Bearer ${process.env.control_token}` },
});
writeFileSync(place('tls-ca.pem'), await ca.text());
function renew(fingerprint, ...identity) {
  const message = {
    tenantId: TENANT, mode: 'mtls', mtlsFingerprint: fingerprint, popKeyId: fingerprint, nonce: random(),
    requestedScopes: ['credential.lease.create:provider:gcp:app:billing-prod:account:deploy-bot'],
    requestProof: { proofType: 'mtls', nonce: random(), mtlsFingerprint: fingerprint },
  };
  return run('curl', '--silent', '--show-error', '--max-time', '10', '--cacert', place('tls-ca.pem'), ...identity,
    '--header', 'Content-Type: application/json', '--header', 'Connect-Protocol-Version: 1',
    '--data', JSON.stringify(message), `${process.env.tls}aegis.v1.BrokerService/ExchangeWorkloadToken`);
}
const shown = (name) => ['--cert', place(`${name}.pem`), '--key', place(`${name}.key`)];
for (const curve of ['P-256', 'P-384']) {
  const { tokenInfo } = JSON.parse(renew(fingerprints[curve], ...shown(curve)).text);
  check(`${curve}: bound to it`, tokenInfo.binding === 'x5t#S256' && tokenInfo.thumbprint === fingerprints[curve]);
}
const reason = (answer) => JSON.parse(answer.text).details[0].debug.reason;
const mismatch = 'client_certificate_mismatch';
check('no certificate', reason(renew(fingerprints['P-256'])) === mismatch);
check("another's fingerprint", reason(renew(fingerprints['P-384'], ...shown('P-256'))) === mismatch);
openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=foreign',
  '-addext', `subjectAltName=URI:${ID}`, '-keyout', place('foreign.key'), '-out', place('foreign.pem'));
check('a certificate of another authority', !renew(fingerprints['P-256'], ...shown('foreign')).done);
process.exit(0);

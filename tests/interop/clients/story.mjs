// The main job and what belongs to it, through a TypeScript client: what it saw, one JSON object a line.
//
//   node story.mjs ADAPTER PLAY
//
// ADAPTER is a module beside this one that connects; PLAY is JSON: `user`, `userAccess`, `serviceAccess` (how each
// connects: `url` and `token`, or `command`, `args` and `env`), `mode` and `answer` (`none`: cannot be asked, `accept`,
// `decline`).

const WITHIN_MILLISECONDS = 20_000;
const [, , adapter, play] = process.argv;
const { connect } = await import(`./${adapter}.mjs`);
const { user, userAccess, serviceAccess, mode, answer } = JSON.parse(play);

const heard = [];
const asked = [];
let heardMore = () => {};

function hear(what) {
  heard.push(what);
  heardMore();
}

function ask(question) {
  asked.push(question);
  return answer === 'accept' ? { action: 'accept', content: { confirm: true } } : { action: 'decline' };
}

function tell(step, seen) {
  console.log(JSON.stringify({ step, ...seen }));
}

async function until(...wanted) {
  const deadline = Date.now() + WITHIN_MILLISECONDS;
  while (!wanted.every((one) => heard.includes(one))) {
    const left = deadline - Date.now();
    if (left <= 0) return;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, left);
      heardMore = () => { clearTimeout(timer); resolve(); };
    });
  }
}

const bella = await connect(userAccess, { mode, ask: answer === 'none' ? null : ask, hear });
const app = await connect(serviceAccess, { mode, ask: null, hear: () => {} });

async function called(client, name, args = {}) {
  const result = await client.call(name, args);
  return { isError: result.isError === true, data: result.structuredContent ?? null, text: result.content[0].text,
    error: result._meta?.['io.github.subscription-mcp/error'] ?? null };
}

async function record(quantity = 1) {
  return (await called(app, 'record_usage', { user_id: user, event: 'message', quantity })).data;
}

const dayOf = (data) => data.limits.find((limit) => limit.window === 'day');

// What is there
tell('lists', { tools: await bella.tools(), resources: await bella.resources(), prompts: await bella.prompts() });
const before = await called(bella, 'get_tier_info');
tell('left', { plan: before.data.plan, remaining: dayOf(before.data).remaining });
tell('resource', { quota: JSON.parse(await bella.read('quota://me')), prompt: await bella.prompt('quota') });
await bella.listen(['quota://me', 'subscription://me']);

// What is not
try {
  tell('hidden', { answered: await bella.call('record_usage', { event: 'message' }) });
} catch (error) {
  tell('hidden', { code: error.code, message: error.message });
}
tell('withheld', await called(bella, 'get_usage_analytics'));
tell('wrong', await called(bella, 'check_quota', { event: 'massage' }));

// Hold and settle, sessions
const held = (await called(app, 'reserve_usage', { user_id: user, event: 'message', quantity: 10 })).data;
tell('held', { allowed: held.allowed, held: dayOf(held).held });
const settled = (await called(app, 'settle_usage', { reservation_id: held.reservation_id, quantity: 3 })).data;
tell('settled', { used: dayOf(settled).used, held: dayOf(settled).held });
const opened = (await called(bella, 'open_session')).data;
const second = (await called(bella, 'open_session')).data;
const renewed = (await called(bella, 'renew_session', { session_id: opened.session_id })).data;
const closed = (await called(bella, 'close_session', { session_id: opened.session_id })).data;
tell('sessions', { opened: opened.allowed, second: second.code,
  same: new Set([opened, renewed, closed].map((one) => one.session_id)).size === 1 });

// Fifty, and one more
let allowed = 3;
while (allowed < 50 && (await record()).allowed) allowed += 1;
const refused = await record();
tell('refused', { recorded: allowed, allowed: refused.allowed, code: refused.code, message: refused.message });

// The way out
heard.length = 0;
let change = await called(bella, 'upgrade_tier', { plan: 'advanced' });
const confirmation = change.data.confirmation;
tell('asked', { status: change.data.status, questions: asked, hasHandle: confirmation !== null });
if (confirmation !== null) {
  change = await called(bella, 'upgrade_tier', { plan: 'advanced', confirmation });
}
const after = (await called(bella, 'get_tier_info')).data;
tell('changed', { status: change.data.status, plan: after.plan });
const next = await record();
tell('next', { allowed: next.allowed, plan: next.plan, used: dayOf(next).used });
if (answer !== 'decline') {
  await until('quota://me', 'subscription://me', 'tools');
  tell('heard', { what: [...new Set(heard)].sort(), tools: await bella.tools() });
  tell('again', await called(bella, 'upgrade_tier', { plan: 'advanced' }));
}
await bella.close();
await app.close();

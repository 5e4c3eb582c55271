// Somebody without an access token: what a TypeScript client shows them, as one JSON object.
//
//   node stranger.mjs ADAPTER MODE ACCESS        ACCESS as in story.mjs, without a token

const [, , adapter, mode, access] = process.argv;
const { connect } = await import(`./${adapter}.mjs`);

async function fault(asked) {
  try {
    return { answered: await asked() };
  } catch (error) {
    return { code: error.code, message: error.message };
  }
}

let client;
const refused = await fault(async () => {
  client = await connect(JSON.parse(access), { mode, ask: null, hear: () => {} });
  return true;
});
if (client === undefined) {
  console.log(JSON.stringify({ refused }));
} else {
  const { isError, structuredContent, _meta } = await client.call('get_tier_info', {});
  console.log(JSON.stringify({
    tools: await client.tools(),
    called: { isError, data: structuredContent ?? null, error: _meta['io.github.subscription-mcp/error'] },
    read: await fault(() => client.read('quota://me')),
  }));
  await client.close();
}

// What the story needs of a connected client; both lines of the SDK agree on it.

export function connected(client, listen) {
  return {
    listen,
    tools: async () => (await client.listTools()).tools.map(({ name }) => name),
    resources: async () => (await client.listResources()).resources.map(({ uri }) => uri),
    prompts: async () => (await client.listPrompts()).prompts.map(({ name }) => name),
    call: (name, args) => client.callTool({ name, arguments: args }),
    read: async (uri) => (await client.readResource({ uri })).contents[0].text,
    prompt: async (name) => (await client.getPrompt({ name })).messages[0].content.text,
    close: () => client.close(),
  };
}

-- One call after the other, each with a fresh JSON-RPC id, another user and, where asked for, a fresh key.
-- arguments: a file with the path, the headers, an empty line and the body; the number of users; a prefix of keys.
-- In the body ID, USER and KEY stand for what is different each time.

local before_id, between, before_key, rest
local path, headers = nil, {}
local users, prefix, number = 1, "", 0

function init(arguments)
  local file = assert(io.open(arguments[1]))
  path = file:read("*l")
  for line in file:lines() do
    if line == "" then break end
    local name, value = line:match("^([^:]+): (.*)$")
    headers[name] = value
  end
  body = file:read("*a")
  file:close()
  users, prefix = tonumber(arguments[2]), arguments[3]
end

function request()
  number = number + 1
  local made = body:gsub("%u%u%u?%u?", { ID = number, USER = "user-" .. number % users, KEY = prefix .. number })
  return wrk.format("POST", path, headers, made)
end

function done(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format(
    "RESULT %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    wrong.connect + wrong.read + wrong.write + wrong.status + wrong.timeout))
end

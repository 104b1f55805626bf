-- For wrk: sends the prepared requests of a file in turn and prints one line for generators.py in the end.
-- The whole requests were made beforehand, so that this costs the generator as little as it can.
local requests, at, last = {}, 0, 0

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for request in file:read("*a"):gmatch("[^%z]+") do
    requests[#requests + 1] = request
  end
  file:close()
  last = #requests
end

function request()
  if at == last then
    at = 0
  end
  at = at + 1
  return requests[at]
end

function done(summary)
  local failed = summary.errors
  io.write(string.format(
    "counted requests=%d microseconds=%d connect=%d read=%d write=%d status=%d timeout=%d\n",
    summary.requests, summary.duration, failed.connect, failed.read, failed.write, failed.status, failed.timeout
  ))
end

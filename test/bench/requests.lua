-- A script for wrk that sends the requests of a file in turn. One per line: method, path, token, JSON body (or nothing).
local requests, nextOne = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local method, path, token, body = line:match("^(.-)\t(.-)\t(.-)\t(.*)$")
    local headers = { Authorization = "Bearer " .. token, Accept = "*/*", ["User-Agent"] = "bench" }
    if body ~= "" then headers["Content-Type"] = "application/json" end
    requests[#requests + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
end

function request()
  nextOne = nextOne % #requests + 1
  return requests[nextOne]
end

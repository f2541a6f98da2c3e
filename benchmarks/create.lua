-- Every request adds another user. The first argument keeps runs apart.
local threads, count = 0, 0

function setup(t)
    threads = threads + 1
    t:set("thread", threads)
end

function init(arguments)
    run = arguments[1]
end

function request()
    count = count + 1
    local email = run .. "-" .. thread .. "-" .. count .. "@example.com"
    local body = '{"name": "New User", "email": "' .. email .. '"}'
    return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
end

-- Reads at random among the first users: a list, one by its id, or one by its e-mail.
function init(arguments)
    what, count = arguments[1], tonumber(arguments[2])
    math.randomseed(os.time())
end

function request()
    local id = math.random(count)
    if what == "list" then
        return wrk.format("GET", "/users?after=" .. math.min(id, count - 100))
    elseif what == "one" then
        return wrk.format("GET", "/users/" .. id)
    end
    return wrk.format("GET", "/users?email=user" .. id .. "@example.com")
end

%% The hop in Erlang/OTP: a supervised gen_server for each socket, found by a table.
-module(hop).
-export([main/1]).

-define(ACCEPTORS, 8).

main([Port]) ->
    _ = ets:new(hop, [named_table, public, set, {read_concurrency, true}, {write_concurrency, true}]),
    {ok, _} = hop_sup:start_link(),
    {ok, Listener} = gen_tcp:listen(list_to_integer(Port),
        [binary, {ip, {127, 0, 0, 1}}, {packet, 4}, {active, false}, {nodelay, true},
         {reuseaddr, true}, {backlog, 4096}, {buffer, 512}]),
    lists:foreach(fun(_) -> spawn_link(fun() -> accept(Listener) end) end, lists:seq(1, ?ACCEPTORS)),
    receive never -> ok end.

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    {ok, Pid} = supervisor:start_child(hop_sup, [Socket]),
    case gen_tcp:controlling_process(Socket, Pid) of
        ok -> gen_server:cast(Pid, own);
        {error, _} -> exit(Pid, kill)
    end,
    accept(Listener).

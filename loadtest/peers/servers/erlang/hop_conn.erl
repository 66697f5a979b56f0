%% One connection as a gen_server that owns its socket. A node's process hibernates when
%% it has said who it is. The frames are those of the server in the folder goroutines.
-module(hop_conn).
-behaviour(gen_server).
-export([start_link/1, init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% So many packets are taken before the socket is asked to go on.
-define(PACKETS, 64).

start_link(Socket) ->
    gen_server:start_link(hop_conn, Socket, []).

init(Socket) ->
    {ok, Socket}.

handle_call(_, _, Socket) ->
    {reply, ok, Socket}.

handle_cast({send, Body}, Socket) ->
    _ = gen_tcp:send(Socket, Body),
    {noreply, Socket};
handle_cast(own, Socket) ->
    ok = inet:setopts(Socket, [{active, ?PACKETS}]),
    {noreply, Socket}.

handle_info({tcp, _, <<$J, Node:64, Payload/binary>>}, Socket) ->
    pass(Node, [$J, Payload]),
    {noreply, Socket};
handle_info({tcp, _, <<$R, _/binary>> = Body}, Socket) ->
    pass(dispatcher, Body),
    {noreply, Socket};
handle_info({tcp, _, <<$N, Node:64>>}, Socket) ->
    welcome(Node, Socket),
    {noreply, Socket, hibernate};
handle_info({tcp, _, <<$D>>}, Socket) ->
    welcome(dispatcher, Socket),
    {noreply, Socket};
handle_info({tcp_passive, _}, Socket) ->
    ok = inet:setopts(Socket, [{active, ?PACKETS}]),
    {noreply, Socket};
handle_info({tcp_error, _, _}, Socket) ->
    {stop, normal, Socket};
handle_info({tcp_closed, _}, Socket) ->
    {stop, normal, Socket}.

welcome(Name, Socket) ->
    true = ets:insert(hop, {Name, self()}),
    _ = gen_tcp:send(Socket, <<$O>>).

pass(Name, Body) ->
    case ets:lookup(hop, Name) of
        [{_, Pid}] -> gen_server:cast(Pid, {send, Body});
        [] -> ok
    end.

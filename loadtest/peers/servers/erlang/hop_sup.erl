%% Supervisor of the connections: each is a process of its own that is not restarted.
-module(hop_sup).
-behaviour(supervisor).
-export([start_link/0, init/1]).

start_link() ->
    supervisor:start_link({local, hop_sup}, hop_sup, []).

init([]) ->
    Flags = #{strategy => simple_one_for_one, intensity => 1000, period => 1},
    Child = #{id => connection, start => {hop_conn, start_link, []}, restart => temporary},
    {ok, {Flags, [Child]}}.

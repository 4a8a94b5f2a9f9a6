package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// Connections that were idle for so long are closed when the server leaves.
const linger = 6 * time.Second

// inheritedListener gives the socket that init keeps open through every switch (sd_listen_fds(3)), or without an init,
// as on a developer's machine, one of its own.
func inheritedListener() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return net.Listen("tcp", ":"+os.Getenv("PORT"))
	}
	file := os.NewFile(3, "port")
	defer file.Close() // FileListener has a descriptor of its own
	return net.FileListener(file)
}

// serve answers until SIGTERM, and leaves without losing a request. http.Server.Shutdown alone would close idle
// connections at once, also those on which a client is sending its next request in that instant. So they are left open
// for a while: what still comes is answered, with "Connection: close".
func serve(server *http.Server, listener net.Listener) error {
	var leaving atomic.Bool
	var connections atomic.Int64

	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
	server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			connections.Add(1)
		case http.StateClosed, http.StateHijacked:
			connections.Add(-1)
		}
	}

	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		leaving.Store(true)
		listener.Close() // our descriptor alone: the next release goes on accepting with its own
	}()

	err := server.Serve(listener)
	if !leaving.Load() {
		return err
	}
	for end := time.Now().Add(linger); connections.Load() > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	return server.Shutdown(context.Background()) // closes what is idle, and waits for what is not
}

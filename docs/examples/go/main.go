package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "go, release", os.Getenv("TARMAC_RELEASE"))
	})
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})

	listener, err := inheritedListener()
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listens on %s", listener.Addr())
	if err := serve(&http.Server{Handler: mux, IdleTimeout: time.Minute}, listener); err != nil {
		log.Fatal(err)
	}
}

package controlplane

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// failure is the body of every answer that is not a success.
type failure struct {
	Error string `json:"error"`
}

// fail answers with a failure.
func fail(w http.ResponseWriter, status int, format string, args ...any) {
	failWith(w, status, fmt.Sprintf(format, args...))
}

func failWith(w http.ResponseWriter, status int, message string) {
	answer(w, status, failure{message})
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		// Only our own types come here; one that JSON cannot hold is a bug.
		panic(fmt.Sprintf("controlplane: answer of type %T: %v", v, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client is gone: nobody is left to tell
}

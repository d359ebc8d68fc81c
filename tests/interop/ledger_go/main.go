// Verifies a lachan checkpoint and inclusion proof with code that lachan's authors did not write:
// golang.org/x/mod/sumdb/note (signed notes) and golang.org/x/mod/sumdb/tlog (RFC 6962 trees).
//
// usage: verify KEYFILE EXPORT — exits 0 and prints "ok N" when the checkpoint's signature and every event's proof hold.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func hash(text string) (h tlog.Hash) {
	raw, err := base64.StdEncoding.DecodeString(text)
	check(err)
	copy(h[:], raw)
	return h
}

func main() {
	key, err := os.ReadFile(os.Args[1])
	check(err)
	verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
	check(err)
	file, err := os.Open(os.Args[2])
	check(err)
	lines := bufio.NewReader(file)
	var tree tlog.Tree
	for count := 0; ; {
		raw, err := lines.ReadBytes('\n')
		check(err)
		var line struct {
			Type, Checkpoint, Body string
			Index                  int64
			Proof                  []string
		}
		check(json.Unmarshal(raw, &line))
		switch line.Type {
		case "header":
			signed, err := note.Open([]byte(line.Checkpoint), note.VerifierList(verifier))
			check(err)
			parts := strings.Split(signed.Text, "\n") // origin, size, root: C2SP tlog-checkpoint
			tree.Hash = hash(parts[2])
			_, err = fmt.Sscan(parts[1], &tree.N)
			check(err)
		case "event":
			var proof tlog.RecordProof
			for _, step := range line.Proof {
				proof = append(proof, hash(step))
			}
			check(tlog.CheckRecord(proof, tree.N, tree.Hash, line.Index, tlog.RecordHash([]byte(line.Body))))
			count++
		case "end":
			fmt.Println("ok", count)
			return
		}
	}
}

// Stranger checks an exported ledger with none of our code: it knows the published
// formats (C2SP signed notes, checkpoints and tlog-tiles), the log's verifier key, and
// golang.org/x/mod, which checks Go's own module log.
//
//	stranger VKEY DIRECTORY
//
// Exit status 0 and the size and root on standard output, or 1 and the reason.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	// Every leaf hash is compared through authenticated tiles; besides, this many
	// entries of each bundle get an inclusion proof of their own.
	proofsPerBundle = 4
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: stranger VKEY DIRECTORY")
		os.Exit(2)
	}
	tree, err := check(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "refused:", err)
		os.Exit(1)
	}
	fmt.Printf("accepted %d %x\n", tree.N, tree.Hash[:])
}

func check(vkey, directory string) (tlog.Tree, error) {
	tree, err := openCheckpoint(vkey, filepath.Join(directory, "checkpoint"))
	if err != nil {
		return tree, err
	}
	hashes := tlog.TileHashReader(tree, &tileFiles{directory, map[string][]byte{}})
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return tree, err
	}
	if root != tree.Hash {
		return tree, errors.New("the tiles have another root than the checkpoint")
	}
	for first := int64(0); first < tree.N; first += tileWidth {
		count := tree.N - first
		if count > tileWidth {
			count = tileWidth
		}
		if err := checkBundle(directory, tree, hashes, first, count); err != nil {
			return tree, err
		}
	}
	return tree, checkGrowth(tree, hashes)
}

func openCheckpoint(vkey, path string) (tlog.Tree, error) {
	var tree tlog.Tree
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(content, note.VerifierList(verifier))
	if err != nil {
		return tree, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != verifier.Name() {
		return tree, errors.New("checkpoint: not origin, size and root")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, fmt.Errorf("checkpoint: %w", err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tree, errors.New("checkpoint: the root is no hash")
	}
	copy(tree.Hash[:], root)
	return tree, nil
}

// checkBundle checks count entries from first on, each against its leaf hash.
func checkBundle(directory string, tree tlog.Tree, hashes tlog.HashReader, first, count int64) error {
	name := place("entries", first/tileWidth, int(count))
	content, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		return err
	}
	var indexes []int64
	var computed []tlog.Hash
	rest := bytes.NewBuffer(content)
	for number := int64(0); number < count; number++ {
		head := rest.Next(2)
		if len(head) < 2 {
			return fmt.Errorf("%s: entry %d is missing", name, number)
		}
		size := int(binary.BigEndian.Uint16(head))
		entry := rest.Next(size)
		if len(entry) < size {
			return fmt.Errorf("%s: entry %d is cut", name, number)
		}
		computed = append(computed, tlog.RecordHash(entry))
		indexes = append(indexes, tlog.StoredHashIndex(0, first+number))
	}
	if rest.Len() > 0 {
		return fmt.Errorf("%s: %d bytes after the last entry", name, rest.Len())
	}
	stored, err := hashes.ReadHashes(indexes)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	step := count/proofsPerBundle + 1
	for number := int64(0); number < count; number++ {
		if stored[number] != computed[number] {
			return fmt.Errorf("%s: entry %d has another hash than the tree", name, number)
		}
		if number%step != 0 && number != count-1 {
			continue
		}
		proof, err := tlog.ProveRecord(tree.N, first+number, hashes)
		if err == nil {
			err = tlog.CheckRecord(proof, tree.N, tree.Hash, first+number, computed[number])
		}
		if err != nil {
			return fmt.Errorf("%s: entry %d: %w", name, number, err)
		}
	}
	return nil
}

// checkGrowth checks that the tree continues the trees of some smaller sizes.
func checkGrowth(tree tlog.Tree, hashes tlog.HashReader) error {
	for size := tree.N; size > 0; size /= 3 {
		root, err := tlog.TreeHash(size, hashes)
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(tree.N, size, hashes)
		if err == nil {
			err = tlog.CheckTree(proof, tree.N, tree.Hash, size, root)
		}
		if err != nil {
			return fmt.Errorf("from size %d: %w", size, err)
		}
	}
	return nil
}

// tileFiles reads tiles where C2SP puts them, which is not where Go's module log does.
type tileFiles struct {
	directory string
	kept      map[string][]byte
}

func (files *tileFiles) Height() int { return tileHeight }

func (files *tileFiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		name := place(strconv.Itoa(tile.L), tile.N, tile.W)
		content, ok := files.kept[name]
		if !ok {
			var err error
			content, err = os.ReadFile(filepath.Join(files.directory, name))
			if err != nil {
				return nil, err
			}
			files.kept[name] = content
		}
		if len(content) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s: %d bytes", name, len(content))
		}
		found = append(found, content)
	}
	return found, nil
}

func (files *tileFiles) SaveTiles([]tlog.Tile, [][]byte) {}

func place(level string, index int64, width int) string {
	name := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		name = fmt.Sprintf("x%03d/%s", index%1000, name)
	}
	if width < tileWidth {
		name = fmt.Sprintf("%s.p/%d", name, width)
	}
	return "tile/" + level + "/" + name
}

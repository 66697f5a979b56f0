package clock

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lacking tells why it cannot be done here; "" when it can.
func Lacking() string {
	if os.Geteuid() != 0 {
		return "setting a process' clock needs root"
	}
	return ""
}

// program is where the text of the executable lies in a process.
type program struct{ from, bytes uint64 }

// function is the one that is replaced.
const function = "__vdso_clock_gettime"

// replacement is code for int clock_gettime(clockid_t edi, struct timespec *rsi), with the
// C calling convention. It adds seconds to CLOCK_REALTIME (0) and CLOCK_REALTIME_COARSE (5)
// when the program's own text calls.
func replacement(p program, seconds int32) []byte {
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x74, 5, // je caller
		0x83, 0xff, 5, // cmp edi, 5
		0x75, 33, // jne ret
		0x48, 0x8b, 0x0c, 0x24, // caller: mov rcx, [rsp]
		0x49, 0xbb, // mov r11, from
	}
	code = binary.LittleEndian.AppendUint64(code, p.from)
	code = append(code,
		0x4c, 0x29, 0xd9, // sub rcx, r11
		0x48, 0x81, 0xf9) // cmp rcx, bytes
	code = binary.LittleEndian.AppendUint32(code, uint32(p.bytes))
	code = append(code,
		0x73, 7, // jae ret
		0x48, 0x81, 0x06) // add qword [rsi], seconds
	code = binary.LittleEndian.AppendUint32(code, uint32(seconds))
	return append(code, 0xc3) // ret
}

// patch is code at an address of the process.
type patch struct {
	at   uint64
	code []byte
}

// Set has a process' clock be ahead of the machine's by whole seconds, or behind it; 0
// is the true time again.
func Set(pid int, ahead time.Duration) error {
	seconds := int64(ahead / time.Second)
	if ahead%time.Second != 0 || seconds != int64(int32(seconds)) {
		return fmt.Errorf("clock: %v is not a number of whole seconds below %d", ahead, math.MaxInt32)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	defer mem.Close()
	text, err := executable(pid)
	if err != nil {
		return fmt.Errorf("clock: the executable of process %d: %w", pid, err)
	}
	base, image, err := vdso(pid, mem)
	if err != nil {
		return fmt.Errorf("clock: the vDSO of process %d: %w", pid, err)
	}
	p, err := plan(base, image, text, int32(seconds))
	if err != nil {
		return fmt.Errorf("clock: the vDSO of process %d: %w", pid, err)
	}
	return stopped(pid, p, func() error {
		if _, err := mem.WriteAt(p.code, int64(p.at)); err != nil {
			return fmt.Errorf("clock: %w", err)
		}
		return nil
	})
}

// mapping finds the executable mapping of a process whose name is as given.
func mapping(pid int, name string) (from, end uint64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if line = strings.TrimSpace(line); !strings.HasSuffix(line, " "+name) || !strings.Contains(line, " r-xp ") {
			continue
		}
		_, err := fmt.Sscanf(line, "%x-%x", &from, &end)
		return from, end, err
	}
	return 0, 0, errors.New("it is not mapped")
}

// executable finds the text of the program that a process runs.
func executable(pid int) (program, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return program{}, err
	}
	from, end, err := mapping(pid, name)
	if end-from > math.MaxInt32 {
		err = errors.Join(err, errors.New("it is too large"))
	}
	return program{from, end - from}, err
}

// vdso reads the vDSO of a process.
func vdso(pid int, mem *os.File) (base uint64, image []byte, err error) {
	base, end, err := mapping(pid, "[vdso]")
	if err != nil {
		return 0, nil, err
	}
	image = make([]byte, end-base)
	_, err = mem.ReadAt(image, int64(base))
	return base, image, err
}

// plan makes the code, and finds where it belongs.
func plan(base uint64, image []byte, text program, seconds int32) (patch, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return patch{}, err
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return patch{}, err
	}
	for _, s := range symbols {
		if s.Name != function {
			continue
		}
		code := replacement(text, seconds)
		if uint64(len(code)) > s.Size {
			return patch{}, fmt.Errorf("%s has %d bytes, and %d are needed", s.Name, s.Size, len(code))
		}
		return patch{base + s.Value, code}, nil
	}
	return patch{}, errors.New("it has no " + function)
}

// stopLimit is how long a process may take to stop with none of its threads in the code
// that is replaced.
const stopLimit = 5 * time.Second

// stopped calls fn while the process is stopped by SIGSTOP and none of its threads is
// where code is replaced.
func stopped(pid int, p patch, fn func() error) error {
	for limit := time.Now().Add(stopLimit); time.Now().Before(limit); {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return os.NewSyscallError("SIGSTOP", err)
		}
		ready, err := outside(pid, p)
		if err == nil && ready {
			err = fn()
		}
		_ = syscall.Kill(pid, syscall.SIGCONT)
		if err != nil || ready {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("clock: process %d does not stop outside of the vDSO within %v", pid, stopLimit)
}

// outside tells whether all threads have stopped, none of them in the code.
func outside(pid int, p patch) (bool, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, t := range threads {
		stat, err := os.ReadFile(dir + "/" + t.Name() + "/stat")
		if err != nil {
			return false, nil // it just ended
		}
		// The state comes after the name in parentheses.
		if i := bytes.LastIndexByte(stat, ')'); i < 0 || len(stat) < i+3 || stat[i+2] != 'T' {
			return false, nil
		}
		where, err := os.ReadFile(dir + "/" + t.Name() + "/syscall")
		if err != nil {
			return false, err
		}
		fields := strings.Fields(string(where)) // the last is the program counter
		if len(fields) < 2 {
			return false, nil // "running"
		}
		pc, err := strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
		if err != nil {
			return false, err
		}
		if pc > p.at && pc < p.at+uint64(len(p.code)) {
			return false, nil
		}
	}
	return true, nil
}

"""A /proc with one process, made by hand: what the tests of its readers share."""

from __future__ import annotations

from ptebatch.snapshot.procfs import read_process

PID = 77
PAGE = 4096
PRESENT, SWAP, FILE, GUARD, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 58, 1 << 56
ANON, LRU, SWAPBACKED, MMAP, HEAD, TAIL = 1 << 12, 1 << 5, 1 << 14, 1 << 11, 1 << 15, 1 << 16
ANON_PAGE = ANON | LRU | SWAPBACKED | MMAP
HUGETLB, NOPAGE, KSM, ZERO, BUDDY, THP = 1 << 17, 1 << 20, 1 << 21, 1 << 24, 1 << 10, 1 << 22


class Tree:
    """A /proc with one process; pages and frames are set before it is written."""

    def __init__(self, root):
        self.root = root
        self.maps = ""
        self.smaps: str | None = None
        self.pages: dict[int, int] = {}
        self.frames: dict[int, int] = {}
        self.counts: dict[int, int] | None = {}

    def folio(self, head: int, order: int, flags: int = ANON_PAGE | THP) -> None:
        """Compound pages from `head` on."""
        for i in range(1 << order):
            self.frames[head + i] = flags | (TAIL if i else HEAD)

    def write(self) -> str:
        base = self.root / str(PID)
        base.mkdir(parents=True, exist_ok=True)
        (base / "maps").write_text(self.maps)
        (base / "comm").write_text("worker\n")
        if self.smaps is not None:
            (base / "smaps").write_text(self.smaps)
        (self.root / "sys/kernel").mkdir(parents=True, exist_ok=True)
        (self.root / "sys/kernel/osrelease").write_text("6.18.0-test\n")
        self.write_words(base / "pagemap", self.pages)
        self.write_words(self.root / "kpageflags", self.frames)
        if self.counts is not None:
            self.write_words(self.root / "kpagecount", {pfn: self.counts.get(pfn, 1) for pfn in self.frames})
        return str(self.root)

    @staticmethod
    def write_words(path, words: dict[int, int]) -> None:
        with open(path, "wb") as file:
            for at, word in words.items():
                file.seek(at * 8)
                file.write(word.to_bytes(8, "little"))

    def read(self):
        return read_process(PID, proc=self.write(), page_size=PAGE)


MAPS = """\
55eafa3d9000-55eafa3db000 r-xp 00002000 fe:00 260131                     /usr/bin/with space (deleted)
55eb209dc000-55eb209fd000 rw-p 00000000 00:00 0                          [heap]
7f859dafd000-7f859db1f000 ---p 00000000 00:00 0 
7f859dd6f000-7f859dd73000 r--p 00000000 00:00 0                          [vvar]
7f859dd73000-7f859dd75000 r--p 00000000 00:00 0                          [vvar_vclock]
7f859dd75000-7f859dd77000 r-xp 00000000 00:00 0                          [vdso]
7fa601600000-7fa601a00000 rw-s 00001000 00:01 25                         /dev/zero (deleted)
7ffda0125000-7ffda0146000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291

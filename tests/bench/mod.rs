//! The room that proves how fast and how light Bramble is: everything is measured on Bramble and on a real etcd in the same run, on the
//! same disk, with fsync on for both. `make bench` prints the table. Raw results are kept in `tests/bench/results`.

mod load;

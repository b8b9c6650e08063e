CREATE TABLE events (number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    device TEXT,
    label TEXT NOT NULL,
    category TEXT,
    onset_s REAL NOT NULL,
    offset_s REAL,
    onset_utc TEXT,
    offset_utc TEXT,
    clock_synced INTEGER,
    score REAL,
    threshold REAL,
    peak REAL,
    mean REAL,
    reason TEXT,
    model TEXT,
    model_sha256 TEXT,
    clip TEXT,
    level_dbfs REAL);

CREATE TABLE gaps (number INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    device TEXT,
    at_s REAL NOT NULL,
    lost_s REAL NOT NULL,
    cause TEXT NOT NULL,
    at_utc TEXT,
    clock_synced INTEGER,
    UNIQUE (source, at_s, at_utc));

CREATE INDEX events_by_category ON events (category, onset_utc);

CREATE INDEX events_by_label ON events (label, onset_utc);

CREATE INDEX events_by_label_category ON events (label, category, onset_utc);

CREATE INDEX events_by_source ON events (source, onset_utc);

CREATE INDEX events_by_source_category ON events (source, category, onset_utc);

CREATE INDEX events_by_source_label ON events (source, label, onset_utc);

CREATE INDEX events_by_time ON events (onset_utc);

CREATE INDEX events_going_on ON events (number) WHERE reason IS NULL;

CREATE INDEX gaps_by_time ON gaps (at_utc);

PRAGMA user_version = 4;

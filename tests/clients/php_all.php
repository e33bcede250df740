<?php
// All checks of PHP's extension `stomp`; see README.md. It speaks STOMP 1.0 unless its user asks for 1.1, and has neither
// heart-beats nor a list of hosts. A header `receipt` makes it wait for the RECEIPT.

declare(strict_types=1);

const PATIENCE_S = 30;
const V11 = ['accept-version' => '1.1', 'host' => '/'];

$mode = $argv[1];
$hosts = array_slice($argv, 2);

function say(string $line): void
{
    echo "$line\n";
    flush();
}

function expect(string $what, mixed $got, mixed $wanted): void
{
    if ($got !== $wanted) {
        throw new Exception("$what: " . json_encode($got) . ' in place of ' . json_encode($wanted));
    }
}

function session(string $host, array $headers = []): Stomp
{
    $session = new Stomp("tcp://$host", '', '', $headers);
    $session->setReadTimeout(PATIENCE_S);
    return $session;
}

function publish(Stomp $session, string $destination, string $body, array $headers = []): void
{
    static $receipts = 0;
    $headers['receipt'] = 'r' . ++$receipts;
    if (!$session->send($destination, $body, $headers)) {
        throw new Exception("no receipt for a SEND to $destination: " . json_encode($session->error()));
    }
}

function subscribe(Stomp $session, string $destination, string $ack, array $headers = []): void
{
    $headers += ['ack' => $ack, 'id' => '0', 'receipt' => 'subscribed'];
    expect('SUBSCRIBE', $session->subscribe($destination, $headers), true);
}

/** @return StompFrame[] */
function take(Stomp $session, int $count): array
{
    $frames = [];
    while (count($frames) < $count) {
        $frame = $session->readFrame();
        if ($frame === false) {
            throw new Exception('no MESSAGE: ' . json_encode($session->error()));
        }
        expect('frame', $frame->command, 'MESSAGE');
        $frames[] = $frame;
    }
    return $frames;
}

function bodies(array $frames): string
{
    $bodies = array_map(fn ($frame) => $frame->body, $frames);
    sort($bodies);
    return implode(' ', $bodies);
}

/** With a receipt, so that it is known to be taken in; the library's own DISCONNECT asks for none. */
function ack(Stomp $session, StompFrame $frame, array $headers = []): void
{
    static $receipts = 0;
    $headers['receipt'] = 'a' . ++$receipts;
    expect('ACK', $session->ack($frame, $headers), true);
}

$producer = null;

function bytes(string $name, string $sent): void
{
    global $producer, $hosts;
    $consumer = session($hosts[1]);
    subscribe($consumer, "/queue/$name", 'client');
    // The library adds the length by itself.
    publish($producer, "/queue/$name", $sent);
    [$got] = take($consumer, 1);
    expect('length', strlen($got->body), strlen($sent));
    expect('equal', $got->body === $sent, true);
    ack($consumer, $got);
}

$checks = [
    'connect' => function () use (&$producer, $hosts) {
        $producer = session($hosts[0]);
        expect('a session', $producer->getSessionId() !== '', true);
    },

    // Which is no mode of STOMP 1.0, but one of 1.1.
    'individual' => function () use (&$producer, $hosts) {
        foreach (['1', '2', '3'] as $body) {
            publish($producer, '/queue/individual', $body);
        }
        // Else it asks for one message at a time.
        $many = ['activemq.prefetchSize' => '10'];
        $consumer = session($hosts[1], V11);
        subscribe($consumer, '/queue/individual', 'client-individual', $many);
        $got = take($consumer, 3);
        expect('in order', array_map(fn ($frame) => $frame->body, $got), ['1', '2', '3']);
        ack($consumer, $got[1], ['subscription' => '0']);
        unset($consumer);
        $consumer = session($hosts[2], V11);
        subscribe($consumer, '/queue/individual', 'client-individual', $many);
        $got = take($consumer, 2);
        expect('what was not acknowledged', bodies($got), '1 3');
        foreach ($got as $frame) {
            ack($consumer, $frame, ['subscription' => '0']);
        }
    },

    'cumulative' => function () use (&$producer, $hosts) {
        foreach (['1', '2', '3'] as $body) {
            publish($producer, '/queue/cumulative', $body);
        }
        $many = ['activemq.prefetchSize' => '10'];
        $consumer = session($hosts[1]);
        subscribe($consumer, '/queue/cumulative', 'client', $many);
        $got = take($consumer, 3);
        ack($consumer, $got[1]);
        unset($consumer);
        $consumer = session($hosts[2]);
        subscribe($consumer, '/queue/cumulative', 'client', $many);
        [$last] = take($consumer, 1);
        expect('what was not acknowledged', $last->body, '3');
        ack($consumer, $last);
    },

    // STOMP 1.0 has none.
    'nack' => function () use (&$producer, $hosts) {
        publish($producer, '/queue/nack', 'again');
        $consumer = session($hosts[1], V11);
        subscribe($consumer, '/queue/nack', 'client-individual');
        [$before] = take($consumer, 1);
        expect('NACK', $consumer->nack($before, ['subscription' => '0']), true);
        [$after] = take($consumer, 1);
        expect('the same', $after->headers['message-id'], $before->headers['message-id']);
        expect('marked', $after->headers['redelivered'], 'true');
        ack($consumer, $after, ['subscription' => '0']);
    },

    'wildcard' => function () use (&$producer, $hosts) {
        $consumer = session($hosts[1]);
        subscribe($consumer, '/topic/wild.*.eur', 'auto');
        foreach (['a.eur', 'a.usd', 'b.eur'] as $name) {
            publish($producer, "/topic/wild.$name", $name);
        }
        expect('what matches', bodies(take($consumer, 2)), 'a.eur b.eur');
    },

    // As users of ActiveMQ Classic have it.
    'durable' => function () use (&$producer, $hosts) {
        $client = ['client-id' => 'php'];
        $durable = ['activemq.subscriptionName' => 'durable'];
        $consumer = session($hosts[1], $client);
        subscribe($consumer, '/topic/durable', 'client', $durable);
        unset($consumer);
        publish($producer, '/topic/durable', 'meanwhile');
        $consumer = session($hosts[2], $client);
        subscribe($consumer, '/topic/durable', 'client', $durable);
        [$got] = take($consumer, 1);
        expect('what came meanwhile', $got->body, 'meanwhile');
        ack($consumer, $got);
        $deleted = $consumer->unsubscribe('/topic/durable', $durable + ['id' => '0', 'receipt' => 'deleted']);
        expect('UNSUBSCRIBE', $deleted, true);
    },

    'transaction' => function () use (&$producer, $hosts) {
        foreach (['dropped' => 'abort', 'kept' => 'commit'] as $body => $end) {
            expect('BEGIN', $producer->begin($body), true);
            foreach (['1', '2'] as $half) {
                publish($producer, '/queue/transaction', "$body $half", ['transaction' => $body]);
            }
            expect($end, $producer->$end($body, ['receipt' => $end]), true);
        }
        $consumer = session($hosts[1]);
        subscribe($consumer, '/queue/transaction', 'client', ['activemq.prefetchSize' => '10']);
        $got = take($consumer, 2);
        expect('only what was committed', bodies($got), 'kept 1 kept 2');
        expect('BEGIN', $consumer->begin('acks'), true);
        ack($consumer, $got[1], ['transaction' => 'acks']);
        expect('COMMIT', $consumer->commit('acks', ['receipt' => 'acks']), true);
    },

    // As users of ActiveMQ Classic have it: who asks subscribes to the temporary queue.
    'reply' => function () use (&$producer, $hosts) {
        subscribe($producer, '/temp-queue/answers', 'auto', ['id' => 'answers']);
        $server = session($hosts[1]);
        subscribe($server, '/queue/requests', 'auto');
        publish($producer, '/queue/requests', 'question', ['reply-to' => '/temp-queue/answers']);
        [$request] = take($server, 1);
        publish($server, $request->headers['reply-to'], "answer to $request->body");
        [$answer] = take($producer, 1);
        expect('the answer', $answer->body, 'answer to question');
    },

    'escaping' => 'it knows none',

    'binary' => fn () => bytes('binary', implode('', array_map(chr(...), [...range(0, 255), ...range(0, 255)]))),
    'large' => fn () => bytes('large', implode('', array_map(fn ($n) => chr(($n * $n + ($n >> 8)) % 256), range(0, (1 << 20) - 1)))),

    // For its user to do: it knows one address.
    'failover' => function () use (&$producer, $hosts) {
        for ($n = 0; $n < 100; $n++) {
            if ($n === 50) {
                say("kill $hosts[0]");
                fgets(STDIN);
            }
            try {
                publish($producer, '/queue/failover', "m-$n");
            } catch (Exception) {
                $producer = session($hosts[1]);
                publish($producer, '/queue/failover', "m-$n");
            }
            say("confirmed m-$n");
        }
        $consumer = session($hosts[2]);
        subscribe($consumer, '/queue/failover', 'client');
        $bodies = [];
        while (count($bodies) < 100) {
            [$got] = take($consumer, 1);
            $bodies[$got->body] = true;
            say("got $got->body");
            ack($consumer, $got);
        }
    },

    // The end of the object sends DISCONNECT and closes at once.
    'disconnect' => function () use (&$producer, $hosts) {
        for ($n = 0; $n < 20; $n++) {
            $producer->send('/queue/disconnect', (string) $n);
        }
        $producer = null;
        $consumer = session($hosts[1]);
        subscribe($consumer, '/queue/disconnect', 'client', ['activemq.prefetchSize' => '100']);
        $got = take($consumer, 20);
        ack($consumer, end($got));
    },
];

foreach ($checks as $name => $check) {
    if (is_string($check)) {
        say("skip $name: $check");
        continue;
    }
    try {
        $check();
    } catch (Throwable $error) {
        fwrite(STDERR, "php stomp: $name: $error\n");
        exit(1);
    }
    say("ok $name");
}

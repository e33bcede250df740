# All checks of Perl's Net::Stomp; see README.md. It speaks STOMP 1.0 unless its user asks for 1.1, and has no heart-beats.

use strict;
use warnings;
use IO::Handle;
use Net::Stomp;

my $PATIENCE_S = 30;
STDOUT->autoflush(1);

my ($mode, @hosts) = @ARGV;
my @rotations = map { my $n = $_; [ map { $hosts[ ($_ + $n) % @hosts ] } 0 .. $#hosts ] } 0 .. 2;
my ($first, $second, $third) = @rotations;

sub say_line { print "$_[0]\n" }

sub expect {
    my ($what, $got, $wanted) = @_;
    die "$what: '$got' in place of '$wanted'\n" if $got ne $wanted;
}

# Logged on, as its users do it.
sub session {
    my ($hosts, %headers) = @_;
    my @list = map { my ($host, $port) = split /:/; { hostname => $host, port => $port } } @$hosts;
    my $stomp   = Net::Stomp->new({ hosts => \@list });
    my $answer  = $stomp->connect({ login => '', passcode => '', %headers });
    expect('answer to CONNECT', $answer->command, 'CONNECTED');
    return $stomp;
}

# Messages may come before the receipt that is waited for.
my %early;

sub next_frame {
    my ($stomp, $command) = @_;
    return shift @{ $early{$stomp} } if $command eq 'MESSAGE' && @{ $early{$stomp} || [] };
    while (1) {
        my $frame = $stomp->receive_frame({ timeout => $PATIENCE_S }) or die "too slow: $command\n";
        return $frame if $frame->command eq $command;
        expect('frame', $frame->command, 'MESSAGE');
        push @{ $early{$stomp} }, $frame;
    }
}

sub publish {
    my ($stomp, $destination, $body, %headers) = @_;
    my $sent = $stomp->send_with_receipt(
        { destination => $destination, body => $body, timeout => $PATIENCE_S, %headers });
    die "no receipt for a SEND to $destination\n" unless $sent;
}

# With a receipt, so that a topic's subscription is there when this returns.
sub subscribe {
    my ($stomp, $destination, $ack, %headers) = @_;
    $stomp->subscribe({ destination => $destination, ack => $ack, id => '0', receipt => 'subscribed', %headers });
    next_frame($stomp, 'RECEIPT');
}

sub take {
    my ($stomp, $count) = @_;
    return map { next_frame($stomp, 'MESSAGE') } 1 .. $count;
}

sub bodies { return join ' ', sort map { $_->body } @_ }

# The library's own disconnect asks for no receipt and closes at once. Acknowledgements before it are waited for here.
sub leave {
    my ($stomp) = @_;
    $stomp->send_frame(Net::Stomp::Frame->new({ command => 'DISCONNECT', headers => { receipt => 'bye' } }));
    expect('receipt', next_frame($stomp, 'RECEIPT')->headers->{'receipt-id'}, 'bye');
    $stomp->_close_socket;
    delete $early{$stomp};
}

my $producer;

sub bytes {
    my ($name, $sent) = @_;
    my $consumer = session($second);
    subscribe($consumer, "/queue/$name", 'client');
    publish($producer, "/queue/$name", $sent, bytes_message => 1);
    my ($got) = take($consumer, 1);
    die "other bytes\n" unless $got->body eq $sent;
    $consumer->ack({ frame => $got });
    leave($consumer);
}

my @checks = (
    connect => sub { $producer = session($first) },

    # Which is no mode of STOMP 1.0, but one of 1.1.
    individual => sub {
        publish($producer, '/queue/individual', $_) for 1 .. 3;
        my $consumer = session($second, 'accept-version' => '1.1', host => '/');
        subscribe($consumer, '/queue/individual', 'client-individual');
        my @got = take($consumer, 3);
        expect('in order', join(' ', map { $_->body } @got), '1 2 3');
        $consumer->ack({ frame => $got[1], subscription => '0' });
        leave($consumer);
        $consumer = session($third, 'accept-version' => '1.1', host => '/');
        subscribe($consumer, '/queue/individual', 'client-individual');
        @got = take($consumer, 2);
        expect('what was not acknowledged', bodies(@got), '1 3');
        $consumer->ack({ frame => $_, subscription => '0' }) for @got;
        leave($consumer);
    },

    cumulative => sub {
        publish($producer, '/queue/cumulative', $_) for 1 .. 3;
        my $consumer = session($second);
        subscribe($consumer, '/queue/cumulative', 'client');
        my @got = take($consumer, 3);
        $consumer->ack({ frame => $got[1] });
        leave($consumer);
        $consumer = session($third);
        subscribe($consumer, '/queue/cumulative', 'client');
        my ($last) = take($consumer, 1);
        expect('what was not acknowledged', $last->body, '3');
        $consumer->ack({ frame => $last });
        leave($consumer);
    },

    # STOMP 1.0 has none.
    nack => sub {
        publish($producer, '/queue/nack', 'again');
        my $consumer = session($second, 'accept-version' => '1.1', host => '/');
        subscribe($consumer, '/queue/nack', 'client-individual');
        my ($before) = take($consumer, 1);
        $consumer->nack({ frame => $before, subscription => '0' });
        my ($after) = take($consumer, 1);
        expect('the same', $after->headers->{'message-id'}, $before->headers->{'message-id'});
        expect('marked', $after->headers->{redelivered}, 'true');
        $consumer->ack({ frame => $after, subscription => '0' });
        leave($consumer);
    },

    wildcard => sub {
        my $consumer = session($second);
        subscribe($consumer, '/topic/wild.*.eur', 'auto');
        publish($producer, "/topic/wild.$_", $_) for qw(a.eur a.usd b.eur);
        expect('what matches', bodies(take($consumer, 2)), 'a.eur b.eur');
        leave($consumer);
    },

    # As users of ActiveMQ Classic have it.
    durable => sub {
        my %client  = ('client-id' => 'perl');
        my %durable = ('activemq.subscriptionName' => 'durable');
        my $consumer = session($second, %client);
        subscribe($consumer, '/topic/durable', 'client', %durable);
        leave($consumer);
        publish($producer, '/topic/durable', 'meanwhile');
        $consumer = session($third, %client);
        subscribe($consumer, '/topic/durable', 'client', %durable);
        my ($got) = take($consumer, 1);
        expect('what came meanwhile', $got->body, 'meanwhile');
        $consumer->ack({ frame => $got });
        $consumer->unsubscribe({ destination => '/topic/durable', id => '0', receipt => 'deleted', %durable });
        next_frame($consumer, 'RECEIPT');
        leave($consumer);
    },

    transaction => sub {
        for (['dropped', 'ABORT'], ['kept', 'COMMIT']) {
            my ($body, $end) = @$_;
            $producer->send_frame(Net::Stomp::Frame->new({ command => 'BEGIN', headers => { transaction => $body } }));
            publish($producer, '/queue/transaction', "$body $_", transaction => $body) for 1 .. 2;
            $producer->send_frame(Net::Stomp::Frame->new(
                { command => $end, headers => { transaction => $body, receipt => $end } }));
            expect('receipt', next_frame($producer, 'RECEIPT')->headers->{'receipt-id'}, $end);
        }
        # The library's own: one message.
        $producer->send_transactional({ destination => '/queue/transaction', body => 'of the library' })
            or die "not sent\n";
        my $consumer = session($second);
        subscribe($consumer, '/queue/transaction', 'client');
        my @got = take($consumer, 3);
        expect('only what was committed', bodies(@got), 'kept 1 kept 2 of the library');
        $consumer->ack({ frame => $got[2] });
        leave($consumer);
    },

    # As users of RabbitMQ have it: nobody subscribes to the temporary queue.
    reply => sub {
        my $server = session($second);
        subscribe($server, '/queue/requests', 'auto');
        publish($producer, '/queue/requests', 'question', 'reply-to' => '/temp-queue/answers');
        my ($request) = take($server, 1);
        publish($server, $request->reply_to, 'answer to ' . $request->body);
        my ($answer) = take($producer, 1);
        expect('the answer', $answer->body, 'answer to question');
        leave($server);
    },

    escaping => 'it knows none',

    binary => sub { bytes('binary', pack('C*', 0 .. 255, 0 .. 255)) },
    large => sub { bytes('large', pack('C*', map { ($_ * $_ + ($_ >> 8)) % 256 } 0 .. (1 << 20) - 1)) },

    # The library connects to the next of its hosts when it can't write or read.
    failover => sub {
        for my $n (0 .. 99) {
            if ($n == 50) {
                say_line("kill $first->[0]");
                <STDIN>;
            }
            # It answers false when the connection broke before the receipt: it is for its user to send that again.
            my $tries = 0;
            until ($producer->send_with_receipt({ destination => '/queue/failover', body => "m-$n", timeout => 5 })) {
                die "too many tries\n" if ++$tries > 3;
            }
            say_line("confirmed m-$n");
        }
        expect('address', $producer->port, (split /:/, $first->[1])[1]);
        my $consumer = session($third);
        subscribe($consumer, '/queue/failover', 'client');
        my %bodies;
        while (keys %bodies < 100) {
            my ($got) = take($consumer, 1);
            $bodies{ $got->body } = 1;
            say_line('got ' . $got->body);
            $consumer->ack({ frame => $got });
        }
        leave($consumer);
    },

    disconnect => sub {
        $producer->send({ destination => '/queue/disconnect', body => $_ }) for 1 .. 20;
        $producer->disconnect;
        my $consumer = session($second);
        subscribe($consumer, '/queue/disconnect', 'client');
        my @got = take($consumer, 20);
        $consumer->ack({ frame => $got[-1] });
        leave($consumer);
    },
);

while (my ($name, $act) = splice @checks, 0, 2) {
    if (not ref $act) {
        say_line("skip $name: $act");
        next;
    }
    eval { $act->(); 1 } or die "Net::Stomp: $name: $@";
    say_line("ok $name");
}

import com.lmax.disruptor.EventHandler;
import com.lmax.disruptor.RingBuffer;
import com.lmax.disruptor.YieldingWaitStrategy;
import com.lmax.disruptor.dsl.Disruptor;
import com.lmax.disruptor.dsl.ProducerType;
import com.lmax.disruptor.util.DaemonThreadFactory;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.SplittableRandom;
import java.util.concurrent.locks.LockSupport;

/**
 * The LMAX pattern in Java, as a peer: ring, journal, state, in one process.
 *
 * <p>{@code java -cp disruptor.jar Transfers.java JOURNAL TRANSFERS ACCOUNTS sync|cache} moves money
 * between random accounts. A transfer is journaled (64 bytes in a file, synced at the end of each
 * batch or left to the page cache) before it is applied; an id that was applied is not applied
 * again. There is no network, no other process, no reply, no chain of digests and no second copy.
 */
public final class Transfers {
    private static final int RING = 16 * 1024;
    private static final int BATCH = 1024;
    private static final int RECORD_BYTES = 64;
    private static final long FUNDS = 1_000_000_000L;

    private static final class Transfer {
        long idHigh;
        long idLow;
        int debit;
        int credit;
        long amount;
    }

    /** Writes what the ring has, and syncs once for all of it. */
    private static final class Journal implements EventHandler<Transfer> {
        private final FileChannel file;
        private final boolean sync;
        private final ByteBuffer buffer =
                ByteBuffer.allocateDirect(RING * RECORD_BYTES).order(ByteOrder.LITTLE_ENDIAN);

        Journal(FileChannel file, boolean sync) {
            this.file = file;
            this.sync = sync;
        }

        @Override
        public void onEvent(Transfer one, long sequence, boolean endOfBatch) throws IOException {
            int start = buffer.position();
            buffer.putLong(one.idHigh).putLong(one.idLow).putLong(one.debit).putLong(one.credit);
            buffer.putLong(one.amount).position(start + RECORD_BYTES);
            if (endOfBatch || !buffer.hasRemaining()) {
                buffer.flip();
                while (buffer.hasRemaining()) {
                    file.write(buffer);
                }
                if (sync) {
                    file.force(false);
                }
                buffer.clear();
            }
        }
    }

    /** Balances, and the ids that were applied. */
    private static final class State implements EventHandler<Transfer> {
        private final long[] balances;
        private final long[] ids;
        volatile long applied;
        long refused;
        long last;

        State(int accounts, int transfers) {
            balances = new long[accounts];
            java.util.Arrays.fill(balances, FUNDS);
            ids = new long[2 * Integer.highestOneBit(4 * transfers)];
        }

        @Override
        public void onEvent(Transfer one, long sequence, boolean endOfBatch) {
            if (!isNew(one) || balances[one.debit] < one.amount) {
                refused++;
            } else {
                balances[one.debit] -= one.amount;
                balances[one.credit] += one.amount;
            }
            last = sequence + 1;
            if (endOfBatch) {
                applied = last;
            }
        }

        private boolean isNew(Transfer one) {
            int mask = ids.length / 2 - 1;
            int slot = (int) (one.idLow ^ one.idLow >>> 32) & mask;
            while (ids[2 * slot] != 0 || ids[2 * slot + 1] != 0) {
                if (ids[2 * slot] == one.idHigh && ids[2 * slot + 1] == one.idLow) {
                    return false;
                }
                slot = slot + 1 & mask;
            }
            ids[2 * slot] = one.idHigh;
            ids[2 * slot + 1] = one.idLow;
            return true;
        }
    }

    private static void publish(RingBuffer<Transfer> ring, SplittableRandom random, int count, int n) {
        for (int left = count; left > 0; left -= BATCH) {
            int size = Math.min(BATCH, left);
            long high = ring.next(size);
            for (long at = high - size + 1; at <= high; at++) {
                Transfer one = ring.get(at);
                one.idHigh = at;
                one.idLow = random.nextLong();
                one.debit = random.nextInt(n);
                one.credit = (one.debit + 1 + random.nextInt(n - 1)) % n;
                one.amount = 1 + random.nextInt(1000);
            }
            ring.publish(high - size + 1, high);
        }
    }

    private static void await(State state, long applied) {
        while (state.applied < applied) {
            LockSupport.parkNanos(10_000);
        }
    }

    public static void main(String[] arguments) throws Exception {
        int transfers = Integer.parseInt(arguments[1]);
        int accounts = Integer.parseInt(arguments[2]);
        boolean sync = arguments[3].equals("sync");
        try (FileChannel file = FileChannel.open(
                Path.of(arguments[0]), StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
            State state = new State(accounts, 2 * transfers);
            Disruptor<Transfer> disruptor = new Disruptor<>(
                    Transfer::new, RING, DaemonThreadFactory.INSTANCE, ProducerType.SINGLE,
                    new YieldingWaitStrategy());
            disruptor.handleEventsWith(new Journal(file, sync)).then(state);
            RingBuffer<Transfer> ring = disruptor.start();
            SplittableRandom random = new SplittableRandom(1);
            publish(ring, random, transfers, accounts); // the compiler's warm-up
            await(state, transfers);
            long begun = System.nanoTime();
            publish(ring, random, transfers, accounts);
            await(state, 2L * transfers);
            double seconds = (System.nanoTime() - begun) / 1e9;
            long total = java.util.Arrays.stream(state.balances).sum();
            if (total != accounts * FUNDS || file.size() != 2L * transfers * RECORD_BYTES) {
                throw new IllegalStateException("the sum of all balances or the journal is wrong");
            }
            System.out.printf(
                    "{\"transfers\": %d, \"refused\": %d, \"seconds\": %.6f}%n",
                    transfers, state.refused, seconds);
        }
    }
}
